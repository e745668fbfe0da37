"""The ledger that a command works on, beside a running server or without one."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinsmith.commands.options import config_option, configured, database_option, home_option

if TYPE_CHECKING:
    from tinsmith.ledger.ledger import Ledger


def ledger_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--home, --database and --config, which `open_ledger` takes."""
    return home_option(database_option(config_option(command)))


@contextmanager
def open_ledger(
    home: Path | None, database: str | None, config_file: Path | None
) -> Iterator[Ledger]:
    from tinsmith.ledger.ledger import Ledger

    ledger = Ledger.open(configured(config_file, home, database).ledger)
    try:
        yield ledger
    finally:
        ledger.close()


def author() -> str:
    """Who the audit log says it was."""
    try:
        return f"command line, user {getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return "command line"
