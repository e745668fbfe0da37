import pytest
from starlette.routing import Route
from starlette.testclient import TestClient
from tinsmith.api.app import create_app
from tinsmith.api.errors import POLL_PATH, SAMPLE_PATH, STATUSES, status_of
from tinsmith.api.routes import TINKER_ROUTES
from tinsmith.domain.errors import (
    BusyError,
    SequenceReusedError,
    StorageError,
    TinsmithError,
)

CALLS = [
    (method, f"/api/v1{route.path}")
    for route in TINKER_ROUTES
    if isinstance(route, Route)
    for method in sorted(route.methods or ())
    if method != "HEAD"
]
GARBAGE = [b"", b"\xff\x00garbage", b"[]", b'{"model_id": {}, "seq_id": -1}', b"[" * 20_000]


def every_kind(root: type[Exception]) -> list[type[Exception]]:
    return [root, *(kind for child in root.__subclasses__() for kind in every_kind(child))]


@pytest.mark.parametrize("body", GARBAGE)
def test_garbage_is_never_our_failure(client, body):
    for method, path in CALLS:
        filled = path.replace("{", "").replace(":path}", "").replace("}", "")
        response = client.request(method, filled, content=body)
        assert response.status_code < 500, (method, path, response.text)
        if response.status_code >= 400:
            assert response.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/join_sampling_session"),
        ("POST", "/api/v1/create_custom_loss"),
        ("POST", "/api/v1/forward"),
        ("GET", "/api/v2/anything"),
        ("GET", "/api/v1/create_model"),
    ],
)
def test_a_call_that_is_not_there_is_named_in_a_final_answer(client, method, path):
    response = client.request(method, path)
    assert response.status_code in (404, 405)
    assert f"{method} {path}" in response.json()["detail"]


@pytest.mark.parametrize("kind", every_kind(TinsmithError))
@pytest.mark.parametrize("path", [POLL_PATH, SAMPLE_PATH, "/api/v1/optim_step"])
def test_every_domain_error_has_a_status_the_sdk_can_live_with(kind, path):
    status = status_of(kind.__new__(kind), path)
    assert status != 409  # the SDK takes it for "try again"
    if path in (POLL_PATH, SAMPLE_PATH):
        assert status < 500


def test_errors_that_repeating_cannot_heal_are_not_repeated():
    repeated = {408, 409, 429, *range(500, 600)}
    reused = SequenceReusedError(scope="r", seq_id=1, first="a", second="b")
    assert status_of(reused, "/api/v1/optim_step") not in repeated
    assert status_of(KeyError("bug"), SAMPLE_PATH) not in repeated
    assert status_of(StorageError("disk full"), SAMPLE_PATH) not in repeated


def test_errors_that_pass_are_repeated_with_pauses():
    assert status_of(BusyError("full"), SAMPLE_PATH) == 429
    assert status_of(StorageError("disk full"), POLL_PATH) == 429
    assert status_of(StorageError("disk full"), "/api/v1/optim_step") == 503


def test_the_table_ends_with_everything():
    assert list(STATUSES)[-1] is Exception


def test_a_bug_is_a_json_answer_without_our_secrets(rooms):
    def is_healthy() -> bool:
        raise RuntimeError("secret inside")

    app = create_app(rooms.service, is_healthy=is_healthy, engines=dict, limits=rooms.config.limits)
    client = TestClient(app, client=("127.0.0.1", 1), raise_server_exceptions=False)
    response = client.get("/api/v1/healthz")
    assert response.status_code == 500
    assert "log" in response.json()["detail"]
    assert "secret" not in response.text
