"""Whatever one project has is, to another one, as if it had never been.

Every route of the application is asked with each id of the other project in each place where an id
can stand, and once more with an id of the same length that never was: the two answers are compared
byte for byte, headers but the date included. A route that is new is asked by its path's parameters
without being told; one that reads a body has to say here which of its fields are ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from killable_server import running, servers_below
from starlette.routing import BaseRoute, Mount, Route
from tenant import MODEL, SAMPLE, Ids, Tenant
from tinsmith.api.openai.app import create_openai_app
from tinsmith.api.routes import every_route
from tinsmith.domain.projects import Role
from tinsmith.ledger.ledger import Ledger
from tinsmith.service.keys import Keys

BODY_IDS: dict[str, tuple[str, ...]] = {
    "/api/v1/client/config": (),
    "/api/v1/client/dynamic_config": (),
    "/api/v1/telemetry": (),
    "/api/v1/auth/token": (),
    "/api/v1/create_session": ("project_id", "display_name"),
    "/api/v1/session_heartbeat": ("session_id",),
    "/api/v1/sessions/search": ("session_id", "project_ids.0", "owner.owner_urns.0", "cursor.id"),
    "/api/v1/sessions/{session}/finish": (),
    "/api/v1/sessions/{session}/project": ("project_id",),
    "/api/v1/create_model": ("session_id", "base_model"),
    "/api/v1/get_info": ("model_id",),
    "/api/v1/forward_backward": ("model_id",),
    "/api/v1/optim_step": ("model_id",),
    "/api/v1/save_weights": ("model_id",),
    "/api/v1/save_weights_for_sampler": ("model_id",),
    "/api/v1/save_weights_external": ("model_id",),
    "/api/v1/load_weights": ("session_id", "model_id", "path"),
    "/api/v1/create_sampling_session": ("session_id", "model_path", "base_model"),
    "/api/v1/asample": ("sampling_session_id",),
    "/api/v1/retrieve_future": ("request_id",),
    "/api/v1/retrieve_futures": ("target.sampling_session_id",),
    "/api/v1/cancel_future": ("request_id",),
    "/api/v1/weights_info": ("tinker_path",),
    "/api/v1/copy_weights": ("source_path", "destination_project_id"),
    "/api/v1/training_runs/{run}/checkpoints/{kind}/{name}/publish": (),
    "/api/v1/training_runs/{run}/checkpoints/{kind}/{name}/ttl": (),
    "/v1/completions": ("model",),
    "/v1/chat/completions": ("model",),
}
"""Of each route that takes a body: the fields that hold ids."""
QUERY_IDS = ("project_id", "session_id", "run_id", "cursor")
"""Asked of every route, whether it looks at them or not."""
MADE = {
    "/api/v1/create_session": ("project_id", "display_name"),
    "/api/v1/copy_weights": ("destination_project_id",),
    "/api/v1/sessions/{session}/project": ("project_id",),
}
"""Where the id is a label that anybody may choose: what is made by that has a new id each time."""
UNNOTICED = ("base_model", "cursor.id")
"""Places where no id of a project is looked for."""
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Ask:
    """A request, but for the id in it."""

    method: str
    route: str
    place: str
    """Where the id stands."""
    send: Callable[[str], httpx.Response]


class Comparison:
    """Boris asks for what is Anna's."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        def tenant(project: str) -> Tenant:
            key, text = Keys(ledger, "test").create(project, Role.OWNER)
            return Tenant(url, project, key.key_id, text)

        self.anna, self.boris = tenant("anna-the-first"), tenant("boris")
        self.carla = tenant("carla")
        self.hers, self.his = self.anna.make_everything(), self.boris.make_everything()
        self.carlas = self.carla.make_everything()
        self._twins = {**self.hers.twins(), **self.carlas.twins()}
        self.num_compared = 0

    def pairs(self, ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Each of somebody's with one that never was."""
        for one in ids:
            no_ones = one
            for old, new in self._twins.items():
                no_ones = no_ones.replace(old, new)
            assert no_ones != one
            yield one, no_ones

    def renamed(self, text: str) -> str:
        """As if it was about what there is."""
        for old, new in self._twins.items():
            text = text.replace(new, old)
        return text

    def differences(self, asks: Iterator[Ask], ids: Sequence[str]) -> list[str]:
        """Where the answers about an id and about one that never was are not the same."""
        found = []
        for ask in asks:
            for one, no_ones in self.pairs(ids):
                is_made = ask.place in MADE.get(ask.route, ())
                first, second = (self._told(ask.send(asked), is_made) for asked in (one, no_ones))
                self.num_compared += 1
                if first != second:
                    found.append(f"{ask.method} {ask.route} {ask.place}={one}: {first} {second}")
        return found

    def _told(self, answer: httpx.Response, is_made: bool) -> tuple[int, dict[str, str], str]:
        body = self.renamed(answer.content.decode("latin-1"))
        if is_made:
            body = UUID.sub("UUID", body)
        headers = {name: self.renamed(text) for name, text in answer.headers.items()}
        return answer.status_code, {**headers, "date": ""}, body


def every_call() -> list[tuple[str, str]]:
    """(method, path with its parameters in braces)."""

    def walk(routes: list[BaseRoute], prefix: str) -> Iterator[tuple[str, str]]:
        for route in routes:
            if isinstance(route, Mount):
                yield from walk(route.routes, prefix + route.path)
            else:
                assert isinstance(route, Route), route
                for method in sorted((route.methods or set()) - {"HEAD"}):
                    yield method, prefix + route.path_format

    return list(walk(every_route(create_openai_app(cast(Any, None))), ""))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comparison]:
    with servers_below(tmp_path_factory.mktemp("tenants")) as make_server:
        server = make_server()
        ledger = Ledger.open(server.home / "ledger.db")
        Keys(ledger, "test").create("operator", Role.OWNER)
        with running(server):
            yield Comparison(server.url, ledger)
        ledger.close()


def test_every_route_that_takes_a_body_says_which_fields_are_ids():
    takes_body = {route for method, route in every_call() if method in ("POST", "PUT")}
    assert takes_body == set(BODY_IDS)


def path_asks(boris: Tenant, his: Ids) -> Iterator[Ask]:
    """Each parameter of each path in turn, the others being the asker's own."""
    own = {
        "session": his.session,
        "run": his.run,
        "kind": "weights",
        "name": "kept",
        "sampler": his.sampler,
        "model": MODEL,
        "revision": "main",
        "file": "tokenizer.json",
        "path": "adapter_config.json",
        "rest": "api/models",
    }
    for method, route in every_call():
        for place in re.findall(r"\{(\w+)\}", route):
            yield Ask(method, route, place, _by_path(boris, method, route, own, place))


def _by_path(
    boris: Tenant, method: str, route: str, own: dict[str, str], place: str
) -> Callable[[str], httpx.Response]:
    def send(wanted: str) -> httpx.Response:
        parts = {**own, place: wanted}
        if place == "run" and wanted.startswith("tinker://"):  # the whole address, if there is room
            run, kind, name = wanted.removeprefix("tinker://").split("/")
            parts |= {"run": run, "kind": kind, "name": name}
        path = re.sub(r"\{(\w+)\}", lambda match: quote(parts[match[1]], safe=":/"), route)
        body = {} if method in ("POST", "PUT") else None
        params = {"expires": "2000000000", "signature": "0" * 64} if "/files/" in route else None
        return boris.http.request(method, path, json=body, params=params)

    return send


def query_asks(boris: Tenant) -> Iterator[Ask]:
    for method, route in every_call():
        if method == "GET" and "{" not in route and route != "/metrics":
            for name in QUERY_IDS:

                def send(wanted: str, route: str = route, name: str = name) -> httpx.Response:
                    return boris.http.get(route, params={name: wanted})

                yield Ask(method, route, f"?{name}", send)


def body_asks(compared: Comparison, asker: Tenant | None = None) -> Iterator[Ask]:
    """Each field that is an id in turn, the others being the asker's own; as a repeat of what the
    other project may have done, and as something new. Where labels make something, Carla asks: what
    Boris sees stays the same."""
    for method, route in every_call():
        for place in BODY_IDS.get(route, ()):
            is_carla = place in MADE.get(route, ()) or asker is compared.carla
            who, own = (
                (compared.carla, compared.carlas) if is_carla else (compared.boris, compared.his)
            )
            for seq_id in (1, 900_000):
                for kind in ("Sample", None) if "future" in route else (None,):
                    send = _by_body(who, own, method, route, place, seq_id, kind)
                    yield Ask(method, route, place, send)


def _by_body(
    asker: Tenant,
    own: Ids,
    method: str,
    route: str,
    place: str,
    seq_id: int,
    kind: str | None,
) -> Callable[[str], httpx.Response]:
    headers = {} if kind is None else {"X-Tinker-Request-Type": kind}
    path = route.replace("{session}", own.session)

    def send(wanted: str) -> httpx.Response:
        if route.endswith("/forward_backward"):
            return asker.http.request(method, path, content=asker.batch(wanted, seq_id))
        body = _with(_body(route, own, seq_id), place, wanted)
        if route.endswith("/load_weights"):  # into a run, or as a new one
            del body["session_id" if place == "model_id" else "model_id"]
        return asker.http.request(method, path, json=body, headers=headers)

    return send


def _body(route: str, his: Ids, seq_id: int) -> dict[str, Any]:
    if route.startswith("/v1/"):
        said = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in route else {}
        return {"model": MODEL, "max_tokens": 1, **(said or {"prompt": "hi"})}
    if route.endswith("/search"):
        return {"owner": {"type": "user", "owner_urns": [f"tml:organization_user:{his.project}"]}}
    return {
        **SAMPLE,
        "session_id": his.session,
        "model_id": his.run,
        "sampling_session_id": his.sampler,
        "request_id": his.requests[0],
        "tinker_path": his.checkpoints[0],
        "source_path": his.checkpoints[0],
        "model_path": his.checkpoints[1],
        "path": his.checkpoints[0],
        "base_model": MODEL,
        "seq_id": seq_id,
        "model_seq_id": seq_id,
        "sampling_session_seq_id": seq_id,
        "lora_config": {"rank": 2},
        "adam_params": {"learning_rate": 0.001},
        "destination_project_id": "p",
        "project_id": "p",
        "display_name": "d",
        "target": {"sampling_session_id": his.sampler},
        "timeout": 0,
    }


def _with(body: dict[str, Any], place: str, wanted: str) -> dict[str, Any]:
    match place:
        case "target.sampling_session_id":
            return {**body, "target": {"sampling_session_id": wanted}}
        case "project_ids.0":
            return {**body, "project_ids": [wanted]}
        case "owner.owner_urns.0":
            owner = {"type": "user", "owner_urns": [f"tml:organization_user:{wanted}"]}
            return {**body, "owner": owner}
        case "cursor.id":
            cursor = {"last_created_at": "2999-01-01T00:00:00Z", "last_session_id": wanted}
            return {**body, "cursor": cursor}
        case _:
            return {**body, place: wanted}


def test_no_path_tells_a_foreign_id_from_one_that_never_was(compared: Comparison):
    asks = path_asks(compared.boris, compared.his)
    assert compared.differences(asks, compared.hers.every()) == []


def test_no_query_does(compared: Comparison):
    assert compared.differences(query_asks(compared.boris), compared.hers.every()) == []


def test_no_body_does(compared: Comparison):
    assert compared.differences(body_asks(compared), compared.hers.every()) == []
    print(f"\n{compared.num_compared} pairs of answers compared")
    assert compared.num_compared > 1500


def test_what_is_found_out_only_when_an_op_is_executed_differs_neither(compared: Comparison):
    boris = compared.boris
    _, run, _ = boris.start_run()
    for pair in compared.pairs(compared.hers.checkpoints):
        told = []
        for path in pair:
            request_id = boris.submit("load_weights", run, path=path)
            told.append(compared.renamed(boris.outcome(request_id).text))
        assert told[0] == told[1]
        assert "there is no checkpoint" in told[0] or "training checkpoint" in told[0]


def test_ones_own_ids_are_told_from_those_that_never_were_in_each_of_these_places(
    compared: Comparison,
):
    """Else the places would not be where ids stand, and the tests above would show nothing."""
    told = compared.differences(body_asks(compared, compared.carla), compared.carlas.every())

    for route, places in BODY_IDS.items():
        for place in places:
            if place not in (*MADE.get(route, ()), *UNNOTICED):
                assert any(f" {route} {place}=" in one for one in told), (route, place)


def test_anothers_idempotency_keys_are_ones_own(compared: Comparison):
    anna, boris = compared.anna, compared.boris
    session = anna.post("create_session", {}, **{"X-Idempotency-Key": "same"})["session_id"]
    assert (
        boris.post("create_session", {}, **{"X-Idempotency-Key": "same"})["session_id"] != session
    )

    def copy(tenant: Tenant, ids: Ids) -> str:
        body = {"source_path": ids.checkpoints[0], "destination_project_id": "p"}
        return tenant.post("copy_weights", body, **{"X-Idempotency-Key": "copy"})["tinker_path"]

    first = copy(anna, compared.hers)
    assert copy(anna, compared.hers) == first
    assert copy(boris, compared.his) != first


def test_signatures_open_the_one_file_that_they_were_made_for(compared: Comparison):
    def signed(tenant: Tenant, ids: Ids) -> str:
        run, kind, name = ids.checkpoints[2].removeprefix("tinker://").split("/")
        place = f"/api/v1/training_runs/{run}/checkpoints/{kind}/{name}/external_weights_urls"
        answer = tenant.http.get(place)
        assert answer.status_code == 200, answer.text
        return answer.json()["urls"]["adapter_config.json"]

    hers, his = signed(compared.anna, compared.hers), signed(compared.boris, compared.his)
    with httpx.Client() as stranger:
        assert stranger.get(hers).status_code == 200  # whoever holds it may fetch that file
        mine = {name: values[0] for name, values in parse_qs(urlsplit(his).query).items()}
        for address in next(compared.pairs(compared.hers.checkpoints[2:])):
            run, kind, name = address.removeprefix("tinker://").split("/")
            path = f"/api/v1/files/{run}/{kind}/{name}/adapter_config.json"
            answer = stranger.get(f"{compared.boris.url}{path}", params=mine)
            assert (answer.status_code, answer.json()["detail"]) == (
                401,
                "this download link is not one that this server has signed",
            )


def test_a_token_opens_what_its_key_does_and_cannot_be_rewritten(compared: Comparison):
    token = compared.boris.post("auth/token", {})["jwt"]
    place = f"/api/v1/training_runs/{quote(compared.hers.run)}"
    with httpx.Client(base_url=compared.boris.url) as http:
        answer = http.get(place, headers={"X-API-Key": token})
        assert answer.status_code == 404
        head, _, signature = token.split(".")
        hers = compared.anna.post("auth/token", {})["jwt"].split(".")[1]
        forged = http.get(place, headers={"X-API-Key": f"{head}.{hers}.{signature}"})
        assert forged.status_code == 401


def test_no_list_names_anything_of_anothers(compared: Comparison):
    for _, route in (one for one in every_call() if one[0] == "GET" and "{" not in one[1]):
        answer = compared.boris.http.get(route)
        for hers in compared.hers.every():
            assert hers not in answer.text, (route, hers)
    for body in ({}, {"owner": {"type": "accessible"}}):
        assert compared.hers.session not in str(compared.boris.post("sessions/search", body))


def test_what_is_public_is_read_by_all_and_changed_by_its_project_alone(compared: Comparison):
    path = compared.hers.checkpoints[0]
    run, kind, name = path.removeprefix("tinker://").split("/")
    place = f"/api/v1/training_runs/{run}/checkpoints/{kind}/{name}"
    assert compared.anna.http.post(f"{place}/publish").status_code == 204
    try:
        info = compared.boris.http.post("/api/v1/weights_info", json={"tinker_path": path})
        assert info.status_code == 200
        assert compared.boris.http.get(f"{place}/archive").status_code == 200
        for method, call in (("DELETE", ""), ("DELETE", "/publish"), ("PUT", "/ttl")):
            answer = compared.boris.http.request(method, place + call, json={})
            assert answer.status_code == 404, (method, call)
        assert compared.boris.http.get(f"/api/v1/training_runs/{run}").status_code == 404
    finally:
        compared.anna.http.delete(f"{place}/publish")
