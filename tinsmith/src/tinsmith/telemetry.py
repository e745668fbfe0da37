"""Log lines: an event's name and its fields, never content.

op_settled run=... seq=4 kind=optim_step wall_ms=12
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_log = logging.getLogger("tinsmith")


def log_to_stderr(level: str, log_format: str = "text") -> None:
    """Send events at or above `level` (debug, info, warning) to standard error, as lines for people
    or, if the format is json, as an object in each line."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_JsonLines() if log_format == "json" else text)
    _log.handlers[:] = [handler]
    _log.setLevel(level.upper())
    _log.propagate = False


def event(name: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log that something happened. Fields are ids, counts and durations; never prompts, tokens,
    keys or names that users chose."""
    _log.log(level, "%s", _line(name, fields), extra={"event": name, "fields": fields})


def failure(name: str, error: BaseException, **fields: object) -> None:
    """Log what should not have happened, with its traceback."""
    extra = {"event": name, "fields": fields}
    _log.error("%s", _line(name, fields), exc_info=error, extra=extra)


def _line(name: str, fields: dict[str, object]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in fields.items())])


class _JsonLines(logging.Formatter):
    """The time is in UTC, as RFC 3339 writes it."""

    def format(self, record: logging.LogRecord) -> str:
        known = record.__dict__
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": known["event"],
            **known["fields"],
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
