"""Log lines, for people and for programs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tinsmith.config import Config
from tinsmith.domain.errors import InvalidInputError
from tinsmith.telemetry import event, failure, log_to_stderr


@pytest.fixture(autouse=True)
def log() -> Iterator[logging.Logger]:
    """As it was, afterwards."""
    log = logging.getLogger("tinsmith")
    before = log.handlers[:], log.level, log.propagate
    yield log
    log.handlers[:], log.level, log.propagate = before


def test_a_person_reads_the_event_and_its_fields(capsys):
    log_to_stderr("info")
    event("op_settled", run="r", seq=4)
    assert capsys.readouterr().err.endswith(" INFO op_settled run=r seq=4\n")


def test_a_program_reads_an_object_in_each_line(capsys):
    log_to_stderr("info", "json")
    event("op_settled", run="r", seq=4, share=0.5, at=Path("a\nb"))
    event("not_told", level=logging.DEBUG)
    event("slow", level=logging.WARNING)

    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert datetime.fromisoformat(first.pop("time")).utcoffset() == timedelta(0)
    assert first == {
        "level": "info",
        "event": "op_settled",
        "run": "r",
        "seq": 4,
        "share": 0.5,
        "at": "a\nb",
    }
    assert (second["level"], second["event"]) == ("warning", "slow")


def test_a_failure_has_its_traceback_in_the_same_line(capsys):
    log_to_stderr("info", "json")
    try:
        raise ValueError("a bug")
    except ValueError as error:
        failure("op_failed", error, what="r")

    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["level"], line["what"]) == ("error", "r")
    assert line["traceback"].startswith("Traceback") and "a bug" in line["traceback"]


def test_another_format_is_refused():
    with pytest.raises(InvalidInputError, match="text, json"):
        Config(log_format="xml")
