"""Where training happens: the service that the environment names, or a tinsmith of our own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from mailroom.config import BUILTIN_BASE_MODEL, served_name
from mailroom.errors import MailroomError
from mailroom.service.local import LocalServer, local_server
from mailroom.service.loopback import bypass_proxies, is_loopback, status_of
from mailroom.service.tokenizers import use_hub_facade

if TYPE_CHECKING:
    import tinker

T = TypeVar("T")
LOCAL_API_KEY = "tml-local"
SessionEnd = Literal["success", "errored", "interrupted"]
ALIVE_CHECK_S = 2.0
CLOSE_PATIENCE_S = 30.0
REACH_PATIENCE_S = 20.0


class Promise(Protocol[T]):
    """What we need of the SDK's futures."""

    def future(self) -> Future[T]: ...


class Wait(Protocol):
    """How to wait for an SDK call: `Service.wait`, or `sdk_wait`."""

    def __call__(self, promise: Promise[T], /) -> T: ...


def sdk_wait(promise: Promise[T], /) -> T:
    """Wait as the SDK does: for as long as it takes."""
    return promise.future().result()


@dataclass(frozen=True, slots=True)
class Service:
    """A Tinker API server and the key to it."""

    url: str
    api_key: str | None
    """None: the SDK finds its own (stored credentials, or a command that prints one)."""
    local: LocalServer | None = None

    @property
    def identity(self) -> str:
        """The same for every connection to the same service: what a `tinker://` path belongs to."""
        return "local" if self.local is not None else self.url

    @contextmanager
    def session(self) -> Iterator[tinker.ServiceClient]:
        """An SDK client whose session ends with the block, and says how it ended."""
        import tinker

        client = tinker.ServiceClient(base_url=self.url, api_key=self.api_key)
        status: SessionEnd = "interrupted"
        try:
            yield client
            status = "success"
        except Exception:
            status = "errored"
            raise
        finally:
            # With the server gone the SDK would go on trying for minutes.
            if self.local is None or _answers(self.local):
                _close(client, status)

    def rest(self) -> tinker.RestClient:
        """The SDK's client for lists and records; it needs no session."""
        import tinker

        return tinker.RestClient(base_url=self.url, api_key=self.api_key)

    def wait(self, promise: Promise[T], /) -> T:
        """What an SDK call comes to. The SDK would wait for ever for a server that is gone.

        Raises:
            MailroomError: the local server has ended; the message has the end of its log.
        """
        future = promise.future()
        while self.local is not None and not future.done():
            try:
                return future.result(timeout=ALIVE_CHECK_S)
            except TimeoutError:
                self.local.check_alive()
        return future.result()

    def base_model_names(self) -> tuple[str, ...]:
        """Base models that the service offers."""
        if self.local is not None:
            return self.local.models
        models = self.wait(self.rest().get_server_capabilities()).supported_models
        return tuple(model.model_name for model in models if model.model_name)


@contextmanager
def open_service(
    home: Path, base_model: str | None, say: Callable[[str], None]
) -> Iterator[Service]:
    """Connect to the service of $TINKER_BASE_URL or, without one, to this home's own tinsmith.

    Also leads the SDK's tokenizer look-ups to the service where it offers that, so call this
    before importing tinker or transformers.

    Args:
        base_model: the model that the command needs; None is the built-in one.
        say: is told what happens, in a line.

    Raises:
        MailroomError: the service cannot be reached or started.
    """
    wanted = base_model or BUILTIN_BASE_MODEL
    url = os.environ.get("TINKER_BASE_URL", "").rstrip("/")
    key = os.environ.get("TINKER_API_KEY") or None
    if not url or is_loopback(url):
        bypass_proxies()
    if url:
        if status_of(f"{url}/api/v1/healthz", timeout_s=REACH_PATIENCE_S) is None:
            # The SDK would try for minutes, without a word.
            raise MailroomError(f"nothing answers at {url}, which TINKER_BASE_URL names")
        use_hub_facade(url, served_name(wanted))
        yield Service(url, key or (LOCAL_API_KEY if is_loopback(url) else None))
        return
    os.environ.setdefault("TINKER_TELEMETRY", "0")  # there is nobody to send it to
    if key is None or not key.startswith(("tml-", "eyJ")):
        key = LOCAL_API_KEY
    with local_server(home, wanted, say) as server:
        use_hub_facade(server.url, served_name(wanted))
        yield Service(server.url, key, server)


def _close(client: tinker.ServiceClient, status: SessionEnd) -> None:
    """End the SDK's session. A failure is told and no more: the work is done, or has failed with an
    error of its own, and the service ends silent sessions by itself."""
    try:
        client.close(status).result(timeout=CLOSE_PATIENCE_S)
    except Exception as error:
        reason = str(error) or type(error).__name__
        print(f"the session could not be ended cleanly: {reason}", file=sys.stderr)


def _answers(server: LocalServer) -> bool:
    try:
        server.check_alive()
    except MailroomError:
        return False
    return True
