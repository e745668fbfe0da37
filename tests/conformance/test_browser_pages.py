"""Chat pages in a browser: which of them may call, by the rules of CORS."""

from __future__ import annotations

import httpx
import openai
import pytest
from click.testing import CliRunner
from sdk_steps import KEY, MODEL
from server_process import serving
from tinsmith.cli import main

PAGE, STRANGER = "http://localhost:3000", "https://elsewhere.example"
WANTED = {"Access-Control-Request-Method": "POST"}


def preflight(url: str, origin: str) -> httpx.Response:
    headers = {"Origin": origin, "Access-Control-Request-Headers": "authorization", **WANTED}
    return httpx.options(f"{url}/v1/chat/completions", headers=headers)


def test_no_page_may_call_unless_it_is_named(live_server):
    answer = preflight(live_server.url, PAGE)
    assert not answer.is_success
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_named_page_may_call_and_others_may_not(model_directory, tmp_path):
    options = ("--cors-origin", PAGE)
    with serving(tmp_path / "home", model_directory, MODEL, options=options) as server:
        allowed = preflight(server.url, PAGE)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        assert preflight(server.url, STRANGER).status_code == 400
        with openai.OpenAI(
            base_url=f"{server.url}/v1", api_key=KEY, default_headers={"Origin": PAGE}
        ) as client:
            answer = client.completions.with_raw_response.create(
                model=MODEL, prompt="x", max_tokens=2, stream=True
            )
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert list(answer.parse())
        refused = httpx.get(f"{server.url}/v1/models", headers={"Origin": PAGE})
        assert refused.status_code == 401  # a page needs a key as everybody does, and reads why
        assert refused.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("origin", ["*", "localhost:3000", "https://chat.example/page"])
def test_what_is_no_origin_is_refused_at_the_start(origin, tmp_path):
    done = CliRunner().invoke(main, ["serve", "--home", str(tmp_path), "--cors-origin", origin])
    assert done.exit_code == 1
    assert repr(origin) in done.stderr
