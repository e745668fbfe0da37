from __future__ import annotations

import base64
import json
import time

import pytest
from tinsmith.domain.errors import AccessError
from tinsmith.domain.records import Caller
from tinsmith.service import tokens as tokens_module
from tinsmith.service.access import Access
from tinsmith.service.tokens import TokenRejectedError, Tokens


@pytest.fixture
def tokens(tmp_path) -> Tokens:
    return Tokens(tmp_path / "secret")


@pytest.fixture
def access(tokens) -> Access:
    return Access(tokens, {"tml-anna": "anna"})


def claims_of(token: str) -> dict:
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def test_a_token_stands_for_the_key_it_was_made_for(access):
    token = access.exchange("tml-anna", False)

    assert access.authenticate(token, False) == Caller("anna")
    assert claims_of(token)["exp"] - claims_of(token)["iat"] == 3600
    assert token.startswith("eyJ")


def test_a_wrong_key_gets_no_token(access):
    with pytest.raises(AccessError, match="not known"):
        access.exchange("tml-boris", True)


def test_without_keys_only_this_machine_gets_a_token(tokens):
    access = Access(tokens)
    assert access.authenticate(access.exchange("tml-any", True), True) == Caller("local")
    with pytest.raises(AccessError, match="only to its own machine"):
        access.authenticate(access.exchange("tml-any", True), False)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_changed_token_is_refused(access, part):
    parts = access.exchange("tml-anna", False).split(".")
    parts[part] = parts[part][:-2] + ("AA" if parts[part][-2:] != "AA" else "BB")
    with pytest.raises(TokenRejectedError, match="not one that this server has signed"):
        access.authenticate(".".join(parts), False)


@pytest.mark.parametrize("token", ["eyJ", "eyJ.eyJ.", "eyJhbGciOiJub25lIn0.e30.", "eyJ\udcff.a.b"])
def test_garbage_that_looks_like_a_token_is_refused(access, token):
    with pytest.raises(TokenRejectedError):
        access.authenticate(token, False)


def test_a_token_ends_and_is_not_prolonged_by_exchanging_it(access, monkeypatch):
    start = time.time()
    token = access.exchange("tml-anna", False)
    monkeypatch.setattr(tokens_module.time, "time", lambda: start + 3000)
    again = access.exchange(token, False)
    assert claims_of(again)["exp"] == claims_of(token)["exp"]
    monkeypatch.setattr(tokens_module.time, "time", lambda: start + 3601)
    for old in (token, again):
        with pytest.raises(TokenRejectedError, match="expired"):
            access.authenticate(old, False)


def test_a_token_goes_with_its_owner(access, tokens):
    token = access.exchange("tml-anna", False)
    without_anna = Access(tokens, {"tml-boris": "boris"})
    with pytest.raises(TokenRejectedError, match="anna"):
        without_anna.authenticate(token, True)
