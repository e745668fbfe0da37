from __future__ import annotations

from concurrent.futures import Future

import pytest
import tinker
from mailroom.service.connect import Service


class Ended:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self, timeout: float | None = None) -> None:
        future: Future[None] = Future()
        future.set_exception(self._error)
        return future.result(timeout)


@pytest.fixture(params=[TimeoutError(), tinker.TinkerError("the session is unknown")])
def service(request, monkeypatch) -> Service:
    """A service whose SDK client cannot end its session."""

    class Client:
        def __init__(self, **settings: str) -> None:
            pass

        def close(self, status: str) -> Ended:
            return Ended(request.param)

    monkeypatch.setattr(tinker, "ServiceClient", Client)
    return Service("http://127.0.0.1:9", "tml-x")


def test_work_that_is_done_stays_done_when_its_session_cannot_be_ended(service, capsys):
    with service.session():
        pass

    assert "could not be ended cleanly: " in capsys.readouterr().err


def test_an_error_of_the_work_itself_is_the_one_that_is_seen(service):
    with pytest.raises(ValueError, match="the real one"), service.session():
        raise ValueError("the real one")
