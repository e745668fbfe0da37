"""Answers get lost; the SDK sends the same work again; nothing may happen twice."""

import http.client
import itertools
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
import tinker
from sdk_steps import KEY, MODEL, adapter_of, assert_equal_adapters, train

HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "date", "server"}


@pytest.fixture
def lossy_url(live_server) -> Iterator[str]:
    """A proxy that passes every request on and swallows the answer of every second submit."""
    target = urlsplit(live_server.url)
    counter = itertools.count()

    class Lossy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            upstream = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            is_submit = "request_id" in content.decode("latin-1") and answer.status == 200
            if is_submit and next(counter) % 2 == 0:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Lossy) as proxy:
        proxy.daemon_threads = True
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{proxy.server_port}"
        proxy.shutdown()
        thread.join()


def test_a_run_whose_answers_are_lost_equals_an_undisturbed_one(lossy_url, make_run, rest):
    clean = make_run(seed=5)
    train(clean, [0, 1])
    service = tinker.ServiceClient(base_url=lossy_url, api_key=KEY)
    disturbed = service.create_lora_training_client(MODEL, rank=4, seed=5).result()
    train(disturbed, [0, 1])
    path = disturbed.save_state("end").result().path
    listed = rest.list_checkpoints(disturbed.model_id).result().checkpoints
    assert [one.tinker_path for one in listed] == [path]
    assert_equal_adapters(adapter_of(clean, rest, "a"), adapter_of(disturbed, rest, "a"))
    service.close("success").result()
