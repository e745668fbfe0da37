"""Files for the holders of given keys alone, in the age format (age-encryption.org/v1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyrage

from tinsmith.domain.errors import InvalidInputError

SUFFIX = ".age"
"""What an encrypted file's name ends in."""
MAX_RECIPIENTS = 10

_pyrage: Any = pyrage  # a compiled module without type information
_KINDS = (
    ("age1tagpq1", _pyrage.tagpq),
    ("age1tag1", _pyrage.tag),
    ("age1", _pyrage.x25519),
    ("ssh-", _pyrage.ssh),
)
"""The first prefix that fits says what a recipient is."""


def encrypt(data: bytes, recipients: Sequence[str]) -> bytes:
    """The data for whoever holds the key of one of the recipients. Raises as `check_recipients`."""
    return _pyrage.encrypt(data, [_parse(recipient) for recipient in recipients])


def check_recipients(recipients: Sequence[str]) -> None:
    """Raises InvalidInputError for more than MAX_RECIPIENTS, and for one that is no public key."""
    if len(recipients) > MAX_RECIPIENTS:
        raise InvalidInputError(
            f"age_encryption_recipients has {len(recipients)} entries; at most {MAX_RECIPIENTS} "
            "are allowed"
        )
    for recipient in recipients:
        _parse(recipient)


def _parse(recipient: str) -> Any:
    for prefix, kind in _KINDS:
        if recipient.startswith(prefix):
            try:
                return kind.Recipient.from_str(recipient)
            except _pyrage.RecipientError as error:
                raise _refused(recipient, str(error)) from error
    raise _refused(recipient, "it begins like no kind of key")


def _refused(recipient: str, why: str) -> InvalidInputError:
    # Somebody may have sent the secret half by mistake; that must not come back in messages.
    shown = recipient[:12] + "..." if len(recipient) > 12 else recipient
    return InvalidInputError(
        f"age_encryption_recipients: {shown!r} is no public key to encrypt to ({why}); use "
        "age1... as age-keygen prints it, or an SSH public key"
    )
