"""What a project's lasting quotas refuse for good: which one, what was asked, what is allowed and
what to do. 0 allows everything."""

from __future__ import annotations

from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.request_size import RequestSize

LONGEST_WAIT_MIN = 5
"""A request of more tokens than this project may have in so many minutes is refused: clients give
up waiting for the next one's turn at about that time."""


def check_rank(rank: int, allowed: int) -> None:
    if allowed and rank > allowed:
        raise InvalidInputError(
            f"LoRA rank {rank} is above this project's quota: rank {allowed}. Use at most "
            f"that, or {_ASK}"
        )


def check_live_runs(num_live: int, allowed: int) -> None:
    """Before one more is made."""
    if allowed and num_live >= allowed:
        raise InvalidInputError(
            f"this project has {num_live} training runs and its quota is live_runs "
            f"{allowed}. End a session that is not needed any more (close its "
            f"ServiceClient), or {_ASK}"
        )


def check_stored(stored_bytes: int, allowed: int, coming_bytes: int = 0) -> None:
    """Before one more checkpoint is written.

    Args:
        coming_bytes: its size, if that is known.
    """
    if allowed and stored_bytes + max(coming_bytes, 1) > allowed:
        raise InvalidInputError(
            f"this project's checkpoints take {stored_bytes} bytes and its quota is stored_bytes "
            f"{allowed}. Delete checkpoints (`tinker checkpoint delete`) or save with "
            f"ttl_seconds, or {_ASK}"
        )


def check_size(
    size: RequestSize,
    *,
    sequence_tokens: int = 0,
    request_datums: int = 0,
    request_tokens: int = 0,
    tokens_per_minute: int = 0,
) -> None:
    if sequence_tokens and size.longest_sequence > sequence_tokens:
        raise InvalidInputError(
            f"a sequence of this request has {size.longest_sequence} tokens, prompt and answer "
            f"together, and this project's quota is sequence_tokens {sequence_tokens}. "
            f"Shorten it or its max_tokens, or {_ASK}"
        )
    if request_datums and size.datums > request_datums:
        raise InvalidInputError(
            f"this request has {size.datums} datums and this project's quota is request_datums "
            f"{request_datums}. Split the batch, or {_ASK}"
        )
    if request_tokens and size.tokens > request_tokens:
        raise InvalidInputError(
            f"this request has {size.tokens} tokens and this project's quota is request_tokens "
            f"{request_tokens}. Split the batch, ask for fewer tokens, or {_ASK}"
        )
    most = tokens_per_minute * LONGEST_WAIT_MIN
    if most and size.tokens > most:
        raise InvalidInputError(
            f"this request has {size.tokens} tokens and this project's quota is tokens_per_minute "
            f"{tokens_per_minute}; one request may take {LONGEST_WAIT_MIN} minutes of it, "
            f"{most} tokens. Split the batch, ask for fewer tokens, or {_ASK}"
        )


_ASK = "ask the server's operator for more (`tinsmith projects set`)"
