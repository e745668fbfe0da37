"""The `mailroom` group: which commands there are, and how errors end one."""

from __future__ import annotations

import importlib
import logging
import signal
import sys
from types import FrameType
from typing import Any

import click

from mailroom.errors import MailroomError, MisuseError

COMMANDS = ("build", "train", "evaluate", "export", "triage", "demo")
"""In the order of a person's way through them; each is a file of this folder."""


class MisuseEnds(click.ClickException):
    exit_code = 2


class Commands(click.Group):
    """Imports a command's file when it is asked for, and turns our errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"mailroom.cli.{cmd_name}").command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (MailroomError, OSError) as error:
            ends = MisuseEnds if _is_misuse(error) else click.ClickException
            raise ends(str(error)) from error
        except Exception as error:
            if line := _service_error(error):
                raise click.ClickException(line) from error
            raise


def _is_misuse(error: Exception) -> bool:
    from mailroom.sources.raw_message import SourceError

    return isinstance(error, MisuseError | SourceError)


def _service_error(error: Exception) -> str | None:
    """One line for an error of the Tinker SDK, or None for any other."""
    tinker: Any = sys.modules.get("tinker")
    if tinker is None or not isinstance(error, tinker.TinkerError):
        return None
    if isinstance(error, tinker.APIConnectionError):
        return f"cannot reach the training service: {error}"
    return f"the training service refused: {error}"


def _end_on_sigterm(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mailroom")
def main() -> None:
    """Teach a small language model to triage your mail, then triage it.

    With TINKER_BASE_URL and TINKER_API_KEY set, training and sampling happen in that service;
    otherwise in a tinsmith of our own on this machine.
    """
    # One error ends a command and is told once; the SDK logs every request that was under way.
    logging.getLogger("tinker.lib.retry_handler").setLevel(logging.CRITICAL)
    # So that a local server is ended as cleanly on SIGTERM as on Ctrl-C.
    signal.signal(signal.SIGTERM, _end_on_sigterm)


if __name__ == "__main__":
    main()
