from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from tinsmith.domain.audit import AuditEntry
from tinsmith.domain.errors import InvalidInputError, StorageError
from tinsmith.domain.projects import ApiKey, Role, check_project_name
from tinsmith.ledger.ledger import Ledger

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEY = ApiKey("k1", sha256(b"a").digest(), "anna", Role.MEMBER, "laptop", NOW)
OTHER = replace(KEY, key_id="k2", digest=sha256(b"b").digest(), project="boris")


def noted(action: str) -> AuditEntry:
    return AuditEntry(NOW, "anna", None, "here", action, None, 200)


@pytest.fixture
def keyed(ledger: Ledger) -> Ledger:
    for key in (KEY, OTHER):
        ledger.create_key(key, noted("key_create"))
    return ledger


def test_a_project_is_made_once(ledger: Ledger):
    made = ledger.create_project("anna")

    assert (made.name, made.weight, made.quotas) == ("anna", 1.0, {})
    assert ledger.create_project("anna") == made == ledger.project("anna")
    assert ledger.project("nobody") is None


def test_weight_and_quotas_change_apart_from_each_other(ledger: Ledger):
    ledger.change_project("anna", weight=2.5)
    ledger.change_project("anna", quotas={"max_runs": 3, "max_rank": 16})
    changed = ledger.change_project("anna", quotas={"max_runs": None})

    assert (changed.weight, changed.quotas) == (2.5, {"max_rank": 16})
    assert ledger.project("anna") == changed


def test_projects_are_listed_by_name(ledger: Ledger):
    for name in ("boris", "anna"):
        ledger.create_project(name)

    assert [project.name for project in ledger.projects()] == ["anna", "boris"]


def test_a_key_is_found_and_brings_its_project(keyed: Ledger):
    assert keyed.api_key("k1") == KEY
    assert keyed.api_key("k3") is None
    assert keyed.project("anna") is not None


def test_keys_are_listed_in_all_and_by_project(keyed: Ledger):
    assert [key.key_id for key in keyed.api_keys()] == ["k1", "k2"]
    assert [key.key_id for key in keyed.api_keys("boris")] == ["k2"]


def test_a_revoked_key_stays_on_record(keyed: Ledger):
    assert keyed.revoke_key("k1", noted("key_revoke"))
    assert not keyed.revoke_key("k1", noted("key_revoke"))
    assert not keyed.revoke_key("k3", noted("key_revoke"))

    found = keyed.api_key("k1")
    assert found is not None
    assert found.revoked_at is not None
    assert not found.is_good_at(datetime.now(UTC))
    assert keyed.has_keys()


def test_there_are_no_keys_at_first(ledger: Ledger):
    assert not ledger.has_keys()


def test_what_changes_keys_and_projects_is_in_the_audit_log(keyed: Ledger):
    keyed.revoke_key("k1", noted("key_revoke"))
    keyed.revoke_key("k1", noted("key_revoke"))
    keyed.change_project("anna", weight=2.0, noted=noted("project_change"))

    actions = [entry.action for entry in keyed.audit(limit=10)]
    assert actions == ["key_create", "key_create", "key_revoke", "project_change"]


def test_a_digest_cannot_belong_to_two_keys(keyed: Ledger):
    with pytest.raises(StorageError, match="digest"):
        keyed.create_key(replace(KEY, key_id="k3"), noted("key_create"))


def test_the_last_use_is_noted(keyed: Ledger):
    later = NOW + timedelta(hours=1)
    keyed.touch_key("k1", later)
    keyed.create_project("x")  # behind it in the queue of writes

    found = keyed.api_key("k1")
    assert found is not None
    assert found.last_used_at == later


def test_a_key_is_good_until_it_expires():
    key = replace(KEY, expires_at=NOW + timedelta(days=1))

    assert key.is_good_at(NOW)
    assert not key.is_good_at(NOW + timedelta(days=1))


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "a" * 65, "ä"])
def test_odd_project_names_are_refused(name: str):
    with pytest.raises(InvalidInputError, match="no name for a project"):
        check_project_name(name)


@pytest.mark.parametrize("name", ["local", "team-a", "a" * 64, "0.b_c"])
def test_plain_project_names_are_taken(name: str):
    check_project_name(name)
