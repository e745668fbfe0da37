import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mailroom.errors import MailroomError
from mailroom.service.connect import open_service
from mailroom.service.loopback import is_healthy, is_loopback, serves_tokenizer, status_of


class Hub(BaseHTTPRequestHandler):
    """Healthy, with one model's tokenizer."""

    def do_GET(self) -> None:
        known = ("/api/v1/healthz", "/hub/org/model/resolve/main/tokenizer_config.json")
        self.send_response(200 if self.path in known else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_health_and_tokenizers_are_what_the_service_answers(url):
    assert is_healthy(url)
    assert serves_tokenizer(url, "org/model")
    assert not serves_tokenizer(url, "org/other")
    assert status_of(f"{url}/nowhere", timeout_s=5) == 404


def test_a_proxy_of_the_environment_is_not_asked_about_loopback(url, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert is_healthy(url)


def test_nobody_there_is_no_error():
    assert not is_healthy("http://127.0.0.1:1")
    assert status_of("not a url", timeout_s=1) is None


@pytest.mark.parametrize(
    ("url", "is_here"),
    [
        ("http://127.0.0.1:80", True),
        ("http://localhost/x", True),
        ("http://[::1]:8765", True),
        ("https://tinker.example", False),
        ("http://localhost.example", False),
    ],
)
def test_loopback_is_this_machine_only(url, is_here):
    assert is_loopback(url) == is_here


def test_a_service_of_the_environment_that_is_not_there_is_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:1/")

    with (
        pytest.raises(MailroomError, match=r"nothing answers at http://127\.0\.0\.1:1,"),
        open_service(tmp_path, None, pytest.fail),
    ):
        pytest.fail("there is no service")
