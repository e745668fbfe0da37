from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from tinsmith.domain.audit import AuditEntry
from tinsmith.domain.errors import StorageError
from tinsmith.ledger.ledger import Ledger

START = datetime(2026, 11, 22, tzinfo=UTC)
HOUR = timedelta(hours=1)


def entry(hour: int, project: str | None = "anna", action: str = "run_create") -> AuditEntry:
    return AuditEntry(START + hour * HOUR, project, "key-1", "10.0.0.7", action, f"o{hour}", 200)


@pytest.fixture
def noted(ledger: Ledger) -> list[AuditEntry]:
    entries = [
        entry(0),
        entry(1, "boris"),
        entry(2, action="checkpoint_delete"),
        entry(3, action="checkpointer"),
    ]
    for one in entries:
        ledger.note(one)
    ledger.create_project("anna")  # behind them in the queue of writes
    return entries


def test_entries_are_read_as_they_were_noted_oldest_first(ledger: Ledger, noted):
    assert ledger.audit(limit=10) == noted


def test_they_are_found_by_project_time_and_kind(ledger: Ledger, noted):
    assert ledger.audit("boris", limit=10) == [noted[1]]
    assert ledger.audit(since=START + 2 * HOUR, limit=10) == noted[2:]
    assert ledger.audit(until=START + HOUR, limit=10) == noted[:1]
    assert ledger.audit(action_prefix="checkpoint_", limit=10) == [noted[2]]


def test_of_too_many_the_newest_are_told(ledger: Ledger, noted):
    assert ledger.audit(limit=2) == noted[2:]


def test_old_ones_are_swept(ledger: Ledger, noted):
    assert ledger.sweep_audit(START + 2 * HOUR) == 2
    assert ledger.audit(limit=10) == noted[2:]


def test_what_was_noted_is_there_after_a_restart(ledger_place, noted, ledger: Ledger):
    ledger.close()
    again = Ledger.open(ledger_place)
    assert again.audit(limit=10) == noted
    again.close()


def test_a_closed_ledger_takes_no_entry(ledger: Ledger):
    ledger.close()
    with pytest.raises(StorageError, match="closed"):
        ledger.note(entry(0))


def test_an_entry_that_cannot_be_written_is_told_in_the_log(ledger: Ledger, caplog):
    with caplog.at_level(logging.ERROR, "tinsmith"):
        ledger.note(AuditEntry(START, None, None, None, None, None, 200))  # type: ignore[arg-type]
        ledger.create_project("anna")
    assert "write_failed" in caplog.text
    assert ledger.audit(limit=10) == []
