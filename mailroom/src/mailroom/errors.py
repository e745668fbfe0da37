"""The one error that a person should see as a line instead of a traceback."""

from __future__ import annotations


class MailroomError(Exception):
    """Something the user can act on; the message says what was wrong and what to do."""


class MisuseError(MailroomError):
    """What was asked for cannot be meant: exit code 2, as for a wrong option."""
