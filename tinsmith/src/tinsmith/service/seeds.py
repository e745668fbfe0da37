"""Seeds for those who gave none."""

from __future__ import annotations

import hashlib

from tinsmith.domain.errors import InvalidInputError

MAX_SEED = 2**63 - 1


def seed_of(scope: str, seq_id: int) -> int:
    """A seed from 0 to MAX_SEED for the request at this place.

    The scope begins with a session's random id, so the seed is as good as drawn; and the same
    request sent twice gets the same one, so that a repeat is recognised by its content.
    """
    digest = hashlib.sha256(f"seed of {scope}#{seq_id}".encode()).digest()
    return int.from_bytes(digest[:8], "little") & MAX_SEED


def check_seed(seed: int) -> None:
    """Raises InvalidInputError for what no generator takes."""
    if not 0 <= seed <= MAX_SEED:
        raise InvalidInputError(f"seed {seed} is out of range: 0 to {MAX_SEED}")
