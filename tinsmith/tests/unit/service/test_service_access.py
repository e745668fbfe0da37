"""Keys and the tokens that stand for them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from tinsmith.domain.errors import AccessError, InvalidInputError, NotFoundError
from tinsmith.domain.key_text import new_key
from tinsmith.domain.projects import Role
from tinsmith.domain.records import Caller
from tinsmith.ledger.ledger import Ledger
from tinsmith.service import keyring as keyring_module
from tinsmith.service import tokens as tokens_module
from tinsmith.service.access import Access
from tinsmith.service.keyring import Keyring
from tinsmith.service.keys import Keys
from tinsmith.service.tokens import TokenRejectedError, Tokens


@dataclass
class Door:
    """A server's way in, and the operator's commands beside it."""

    ledger: Ledger
    access: Access
    keys: Keys

    def make(self, project: str = "anna", role: Role = Role.OWNER, **changes) -> tuple[str, str]:
        key, text = self.keys.create(project, role, **changes)
        return key.key_id, text


@pytest.fixture
def door(tmp_path) -> Iterator[Door]:
    ledger = Ledger.open(tmp_path / "ledger.db")
    yield Door(ledger, Access(Tokens(tmp_path / "secret"), Keyring(ledger)), Keys(ledger, "test"))
    ledger.close()


@pytest.fixture
def later(monkeypatch):
    """Lets what is remembered of keys grow old, or the wall clock go on."""

    def go(*, wall_s: float = 0.0, remembered_s: float = 2.0) -> None:
        real, start = time.monotonic, time.time()
        monkeypatch.setattr(keyring_module.time, "monotonic", lambda: real() + remembered_s)
        if wall_s:
            monkeypatch.setattr(tokens_module.time, "time", lambda: start + wall_s)

    return go


def claims_of(token: str) -> dict:
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def test_without_keys_any_key_belongs_to_one_local_user(door):
    for key in ("tml-a", "tml-b", new_key()):
        assert door.access.authenticate(key, True) == Caller("local")
    for missing in (None, ""):
        with pytest.raises(AccessError, match="X-API-Key"):
            door.access.authenticate(missing, True)
        assert door.access.authenticate(missing, True, may_be_silent=True) == Caller("local")
    with pytest.raises(AccessError, match="only to its own machine"):
        door.access.authenticate("tml-a", False)


@pytest.mark.parametrize("is_loopback", [True, False])
def test_with_keys_everybody_shows_one(door, is_loopback: bool):
    anna_id, anna = door.make("anna", Role.MEMBER)
    boris_id, boris = door.make("boris", Role.READ_ONLY)

    assert door.access.authenticate(anna, is_loopback) == Caller("anna", Role.MEMBER, anna_id)
    assert door.access.authenticate(boris, is_loopback) == Caller("boris", Role.READ_ONLY, boris_id)
    for wrong in (anna[:-1], f"{anna} ", anna.upper(), new_key(), "tml-any", "\udcff"):
        with pytest.raises(AccessError, match="not known") as caught:
            door.access.authenticate(wrong, is_loopback)
        assert wrong not in str(caught.value)
    with pytest.raises(AccessError, match="X-API-Key"):
        door.access.authenticate(None, is_loopback, may_be_silent=True)


def test_the_first_key_ends_the_local_users_time_within_a_second(door, later):
    assert door.access.authenticate("tml-any", True) == Caller("local")
    door.make()
    later()

    with pytest.raises(AccessError, match="not known"):
        door.access.authenticate("tml-any", True)


def test_a_new_key_is_good_at_once(door):
    _, first = door.make()
    door.access.authenticate(first, False)
    key_id, second = door.make("boris")

    assert door.access.authenticate(second, False).key_id == key_id


def test_a_revoked_key_is_refused_within_a_second(door, later):
    key_id, key = door.make()
    door.access.authenticate(key, True)
    assert door.keys.revoke(key_id).project == "anna"
    later()

    with pytest.raises(AccessError, match=f"{key_id}, was revoked"):
        door.access.authenticate(key, True)
    assert door.keys.revoke(key_id).key_id == key_id  # a repeat
    with pytest.raises(NotFoundError, match="keys list"):
        door.keys.revoke("key-0")


def test_revoking_the_last_key_lets_nobody_in_without_one(door, later):
    key_id, _ = door.make()
    door.keys.revoke(key_id)

    with pytest.raises(AccessError):
        door.access.authenticate("tml-any", True)


def test_a_key_expires(door):
    _, key = door.make(expires_days=1e-9)

    with pytest.raises(AccessError, match="expired"):
        door.access.authenticate(key, True)


def test_a_known_key_is_answered_without_the_ledger(door, later):
    _, key = door.make()
    assert not door.access.answers_at_once(key)
    token = door.access.exchange(key, False)
    door.ledger.close()

    assert door.access.answers_at_once(key)
    assert door.access.answers_at_once(token)
    assert door.access.authenticate(key, False) == door.access.authenticate(token, False)
    for unknown in (None, "tml-any", "eyJ"):
        assert not door.access.answers_at_once(unknown)
    later()
    assert not door.access.answers_at_once(key)


def test_that_there_are_no_keys_is_remembered_too(door, later):
    assert not door.access.answers_at_once("tml-any")
    door.access.authenticate("tml-any", True)
    assert door.access.answers_at_once("tml-any")
    later()
    assert not door.access.answers_at_once("tml-any")


def test_the_last_use_of_a_key_is_kept_to_the_minute(door, later):
    key_id, key = door.make()
    door.access.authenticate(key, False)
    door.ledger.create_project("behind-it-in-the-queue")
    first = door.ledger.api_key(key_id).last_used_at
    later()
    door.access.authenticate(key, False)
    door.ledger.create_project("behind-this-too")

    assert first is not None
    assert datetime.now(UTC) - first < timedelta(minutes=5)
    assert door.ledger.api_key(key_id).last_used_at == first


@pytest.mark.parametrize(
    ("project", "changes", "why"),
    [
        ("no name", {}, "no name for a project"),
        ("anna", {"label": "x" * 201}, "label"),
        ("anna", {"label": "a\nb"}, "label"),
        ("anna", {"expires_days": 0}, "time"),
        ("anna", {"expires_days": 1e9}, "time"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(door, project, changes, why):
    with pytest.raises(InvalidInputError, match=why):
        door.keys.create(project, Role.OWNER, **changes)
    assert not door.keys.list()


def test_what_the_operator_does_is_in_the_audit_log(door):
    key_id, _ = door.make()
    door.keys.revoke(key_id)

    told = [
        (one.project, one.action, one.object, one.address) for one in door.ledger.audit(limit=9)
    ]
    assert told == [
        ("anna", "key_create", key_id, "test"),
        ("anna", "key_revoke", key_id, "test"),
    ]


def test_a_token_stands_for_the_key_it_was_made_for(door):
    key_id, key = door.make("anna", Role.MEMBER)
    token = door.access.exchange(key, False)

    assert door.access.authenticate(token, False) == Caller("anna", Role.MEMBER, key_id)
    claims = claims_of(token)
    assert (claims["project"], claims["role"], claims["key_id"]) == ("anna", "member", key_id)
    assert claims["exp"] - claims["iat"] == 3600
    assert token.startswith("eyJ")


def test_a_token_goes_with_its_key(door, later):
    key_id, key = door.make()
    token = door.access.exchange(key, False)
    door.keys.revoke(key_id)
    later()

    with pytest.raises(TokenRejectedError, match="good no longer"):
        door.access.authenticate(token, False)


def test_a_token_lives_no_longer_than_its_key(door):
    _, key = door.make(expires_days=0.5 / 24)
    claims = claims_of(door.access.exchange(key, False))

    assert 1795 <= claims["exp"] - claims["iat"] <= 1800


def test_a_token_from_before_the_first_key_is_good_no_longer(door, later):
    token = door.access.exchange("tml-any", True)
    assert door.access.authenticate(token, True) == Caller("local")
    door.make()
    later()

    with pytest.raises(TokenRejectedError, match="good no longer"):
        door.access.authenticate(token, True)


def test_without_keys_only_this_machine_gets_a_token(door):
    token = door.access.exchange("tml-any", True)

    with pytest.raises(AccessError, match="only to its own machine"):
        door.access.authenticate(token, False)


def test_a_wrong_key_gets_no_token(door):
    door.make()
    with pytest.raises(AccessError, match="not known"):
        door.access.exchange("tml-boris", True)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_changed_token_is_refused(door, part):
    _, key = door.make()
    parts = door.access.exchange(key, False).split(".")
    parts[part] = parts[part][:-2] + ("AA" if parts[part][-2:] != "AA" else "BB")
    with pytest.raises(TokenRejectedError, match="not one that this server has signed"):
        door.access.authenticate(".".join(parts), False)


@pytest.mark.parametrize("token", ["eyJ", "eyJ.eyJ.", "eyJhbGciOiJub25lIn0.e30.", "eyJ\udcff.a.b"])
def test_garbage_that_looks_like_a_token_is_refused(door, token):
    door.make()
    with pytest.raises(TokenRejectedError):
        door.access.authenticate(token, False)


def test_a_token_ends_and_is_not_prolonged_by_exchanging_it(door, later):
    _, key = door.make()
    token = door.access.exchange(key, False)
    later(wall_s=3000)
    again = door.access.exchange(token, False)
    assert claims_of(again)["exp"] == claims_of(token)["exp"]
    later(wall_s=3601)
    for old in (token, again):
        with pytest.raises(TokenRejectedError, match="expired"):
            door.access.authenticate(old, False)
