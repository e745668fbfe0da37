"""The `mailroom` command: one file for each of its commands."""

from mailroom.cli.main import main

__all__ = ["main"]
