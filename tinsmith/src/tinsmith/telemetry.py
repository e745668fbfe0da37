"""Log lines: an event's name and its fields, never content.

op_settled run=... seq=4 kind=optim_step wall_ms=12
"""

from __future__ import annotations

import logging
import sys

_log = logging.getLogger("tinsmith")


def log_to_stderr(level: str) -> None:
    """Send events at or above `level` (debug, info, warning) to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _log.handlers[:] = [handler]
    _log.setLevel(level.upper())
    _log.propagate = False


def event(name: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log that something happened. Fields are ids, counts and durations; never prompts, tokens,
    keys or names that users chose."""
    _log.log(level, "%s", " ".join([name, *(f"{key}={value}" for key, value in fields.items())]))


def failure(name: str, error: BaseException, **fields: object) -> None:
    """Log what should not have happened, with its traceback."""
    line = " ".join([name, *(f"{key}={value}" for key, value in fields.items())])
    _log.error("%s", line, exc_info=error)
