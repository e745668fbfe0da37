from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tinsmith.config import Service as Settings
from tinsmith.domain.audit import AuditEntry
from tinsmith.domain.projects import Role
from tinsmith.domain.records import Caller

DAY = timedelta(days=1)


def note_at(house, moment: datetime, action: str) -> None:
    house.ledger.note(AuditEntry(moment, "anna", None, None, action, None, 200))


def behind_what_is_queued(house) -> None:
    house.ledger.create_project("behind-the-entries-in-the-queue")


def test_an_entry_says_who_did_what_and_when(house):
    member = Caller("anna", Role.MEMBER, "key-1")
    house.service.audit.note(member, "10.0.0.7", "run_create", "r", 200)
    behind_what_is_queued(house)

    (entry,) = house.service.audit.of_day(house.anna)
    assert datetime.now(UTC) - entry.at < timedelta(minutes=5)
    assert replace(entry, at=datetime.min) == AuditEntry(
        datetime.min, "anna", "key-1", "10.0.0.7", "run_create", "r", 200
    )
    assert house.service.audit.of_day(house.boris) == []


def test_a_day_goes_from_midnight_to_midnight_utc(house):
    midnight = datetime(2026, 11, 22, tzinfo=UTC)
    second = timedelta(seconds=1)
    for moment, action in (
        (midnight - second, "before"),
        (midnight, "first"),
        (midnight + DAY - second, "last"),
        (midnight + DAY, "behind"),
    ):
        note_at(house, moment, action)
    behind_what_is_queued(house)

    told = house.service.audit.of_day(house.anna, midnight.date())
    assert [entry.action for entry in told] == ["first", "last"]


def test_old_entries_are_swept_after_the_setting(house):
    service = house.build(
        config=replace(house.config, service=Settings(audit_retention_s=DAY.total_seconds()))
    )
    now = datetime.now(UTC)
    note_at(house, now - 2 * DAY, "old")
    note_at(house, now, "new")
    behind_what_is_queued(house)

    assert service.audit.sweep() == 1
    assert [entry.action for entry in house.ledger.audit(limit=9)] == ["new"]
    service.close()
