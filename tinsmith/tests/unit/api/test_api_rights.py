"""Who may call what, and what the audit log has of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from starlette.routing import BaseRoute, Mount
from starlette.testclient import TestClient
from tinsmith.api.app import create_app
from tinsmith.api.calls import Call
from tinsmith.domain.projects import Role
from tinsmith.domain.rights import RIGHTS
from tinsmith.ledger.ledger import Ledger
from tinsmith.service.keys import Keys

OPEN = {
    "/healthz",
    "/readyz",
    "/api/v1/healthz",
    "/api/v1/files/{run}/{kind}/{name}/{path}",
}
"""Needs no key; neither does the hub."""
NEVER = ("DELETE", "/api/v1/auth/apikey/me")
"""Keys are revoked by the operator."""

Client = Callable[..., TestClient]


def calls_in(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[str, BaseRoute]]:
    for route in routes:
        if isinstance(route, Mount):
            yield from calls_in(route.routes, prefix + route.path)
        else:
            yield prefix + getattr(route, "path_format", ""), route


@pytest.fixture
def calls(rooms) -> list[tuple[str, BaseRoute]]:
    """Every route of the application, with its path from the root."""
    app = create_app(
        rooms.service, is_healthy=lambda: True, engines=dict, limits=rooms.config.limits
    )
    return list(calls_in(app.routes))


@pytest.fixture
def ledger(rooms) -> Iterator[Ledger]:
    """The operator's commands work beside the server."""
    ledger = Ledger.open(rooms.config.home / "ledger.db")
    yield ledger
    ledger.close()


@pytest.fixture
def client_of(rooms, ledger) -> Client:
    def make(project: str = "anna", role: Role = Role.OWNER, **changes) -> TestClient:
        _, key = Keys(ledger, "test").create(project, role)
        client = rooms.client(key, **changes)
        client.headers["Authorization"] = f"Bearer {key}"
        return client

    return make


def behind_what_is_queued(rooms) -> None:
    rooms.ledger.create_project("behind-the-entries-in-the-queue")


def actions(rooms) -> list[tuple[str, str | None, int]]:
    behind_what_is_queued(rooms)
    return [
        (entry.action, entry.object, entry.status)
        for entry in rooms.ledger.audit(limit=1000)
        if entry.address != "test"
    ]


def test_every_route_says_what_it_takes(calls):
    open_to_all = set()
    for path, route in calls:
        assert isinstance(route, Call), path
        if route.right is None and not path.startswith("/hub/"):
            open_to_all.add(path)
    assert open_to_all == OPEN


def test_without_a_key_every_other_route_is_closed(rooms, calls, client_of):
    client_of()
    stranger = rooms.client(None)
    for path, route in calls:
        if route.right is not None:
            for method in route.methods:
                assert stranger.request(method, path).status_code == 401, (method, path)


@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_call_what_the_table_says(calls, client_of, role):
    client = client_of("anna", role)
    for path, route in calls:
        for method in route.methods if route.right is not None else ():
            may = route.right in RIGHTS[role] and (method, path) != NEVER
            answer = client.request(method, path)
            assert (answer.status_code != 403) is may, (method, path, answer.text)


def test_the_operator_sees_the_whole_server_and_others_do_not(client_of):
    assert client_of("anna").get("/metrics").status_code == 403
    for other in ("X-API-Key", "Authorization"):
        operator = client_of("local", Role.READ_ONLY)
        del operator.headers[other]
        assert operator.get("/metrics").status_code == 200


def test_with_keys_nobody_is_let_in_for_being_local(rooms, client_of):
    client_of()
    for key in (None, "tml-any"):
        local = rooms.client(key)
        assert local.get("/metrics").status_code == 401
        assert local.get("/api/v1/sessions").status_code == 401


def test_a_refusal_names_the_role_and_who_may(client_of):
    answer = client_of("anna", Role.READ_ONLY).post("/api/v1/create_session", json={})

    assert answer.status_code == 403
    assert "read-only, which may not train" in answer.json()["detail"]
    assert "member or owner" in answer.json()["detail"]


def test_what_changes_something_is_noted_with_its_id_and_work_is_not(rooms, client_of, start):
    client = client_of()
    run = start(client)
    saved = run.do("save_weights", path="one")["path"]
    run.do("optim_step", adam_params={"learning_rate": 0.1})
    place = f"/api/v1/training_runs/{run.run_id}/checkpoints/weights/one"
    for method, path, body in (
        ("PUT", f"{place}/ttl", {"ttl_seconds": 7200}),
        ("POST", f"{place}/publish", {}),
        ("DELETE", place, {}),
        ("DELETE", place, {}),
        ("POST", f"/api/v1/sessions/{run.session_id}/finish", {}),
    ):
        client.request(method, path, json=body)

    assert actions(rooms) == [
        ("session_create", run.session_id, 200),
        ("run_create", run.run_id, 200),
        ("checkpoint_save", run.run_id, 200),
        ("checkpoint_ttl_set", saved, 204),
        ("checkpoint_publish", saved, 204),
        ("checkpoint_delete", saved, 204),
        ("session_finish", run.session_id, 200),
    ]


def test_who_was_refused_is_noted_whatever_it_was(rooms, client_of):
    client = client_of("anna", Role.READ_ONLY)
    client.post("/api/v1/asample", json={})
    client.delete("/api/v1/training_runs/r/checkpoints/weights/c")
    client.delete("/api/v1/training_runs/" + "r" * 400 + "/checkpoints/weights/c")
    client.get("/api/v1/sessions")

    noted = actions(rooms)
    assert noted[:2] == [
        ("asample", None, 403),
        ("checkpoint_delete", "tinker://r/weights/c", 403),
    ]
    assert len(noted) == 3
    assert len(noted[2][1] or "") == 300
    key_id = rooms.ledger.api_keys()[0].key_id
    entry = rooms.ledger.audit(limit=1)[0]
    assert (entry.project, entry.key_id, entry.address) == ("anna", key_id, "127.0.0.1")


def test_what_was_done_is_answered_so_when_it_cannot_be_noted(rooms, client_of, caplog):
    client = client_of("anna", Role.READ_ONLY)
    assert client.get("/api/v1/sessions").status_code == 200
    rooms.ledger.close()

    assert client.post("/api/v1/asample", json={}).status_code == 403
    assert "audit_failed" in caplog.text


def test_a_project_reads_its_own_day_of_the_log(rooms, client_of):
    anna, boris = client_of("anna"), client_of("boris")
    session = anna.post("/api/v1/create_session", json={}).json()["session_id"]
    boris.post("/api/v1/create_session", json={})
    behind_what_is_queued(rooms)

    def entries(**params) -> list[dict]:
        answer = anna.get("/api/v1/audit", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()["entries"]

    assert [entry["event"] for entry in entries()] == ["key_create", "session_create"]
    assert entries()[1]["event_details"]["object"] == session
    assert entries(event_type="checkpoints") == entries(day="2020-01-01") == []


@pytest.mark.parametrize("params", [{"day": "today"}, {"day": "9999-12-31"}, {"event_type": "x"}])
def test_an_odd_question_to_the_log_is_refused(client_of, params):
    assert client_of().get("/api/v1/audit", params=params).status_code == 400
