"""What a project's lasting quotas refuse for good: which one, what was asked, what is allowed and
what to do."""

from __future__ import annotations

from tinsmith.config import Quotas
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.request_size import RequestSize

LONGEST_WAIT_MIN = 5
"""A request of more tokens than this project may have in so many minutes is refused: clients give
up waiting for the next one's turn at about that time."""


def check_rank(rank: int, quotas: Quotas) -> None:
    if quotas.rank and rank > quotas.rank:
        raise InvalidInputError(
            f"LoRA rank {rank} is above this project's quota: rank {quotas.rank}. Use at most "
            f"that, or {_ASK}"
        )


def check_live_runs(num_live: int, quotas: Quotas) -> None:
    """Before one more is made."""
    if quotas.live_runs and num_live >= quotas.live_runs:
        raise InvalidInputError(
            f"this project has {num_live} training runs and its quota is live_runs "
            f"{quotas.live_runs}. End a session that is not needed any more (close its "
            f"ServiceClient), or {_ASK}"
        )


def check_stored(stored_bytes: int, quotas: Quotas, coming_bytes: int = 0) -> None:
    """Before one more checkpoint is written.

    Args:
        coming_bytes: its size, if that is known.
    """
    if quotas.stored_bytes and stored_bytes + max(coming_bytes, 1) > quotas.stored_bytes:
        raise InvalidInputError(
            f"this project's checkpoints take {stored_bytes} bytes and its quota is stored_bytes "
            f"{quotas.stored_bytes}. Delete checkpoints (`tinker checkpoint delete`) or save with "
            f"ttl_seconds, or {_ASK}"
        )


def check_size(size: RequestSize, quotas: Quotas) -> None:
    if quotas.sequence_tokens and size.longest_sequence > quotas.sequence_tokens:
        raise InvalidInputError(
            f"a sequence of this request has {size.longest_sequence} tokens, prompt and answer "
            f"together, and this project's quota is sequence_tokens {quotas.sequence_tokens}. "
            f"Shorten it or its max_tokens, or {_ASK}"
        )
    if quotas.request_datums and size.datums > quotas.request_datums:
        raise InvalidInputError(
            f"this request has {size.datums} datums and this project's quota is request_datums "
            f"{quotas.request_datums}. Split the batch, or {_ASK}"
        )
    if quotas.request_tokens and size.tokens > quotas.request_tokens:
        raise InvalidInputError(
            f"this request has {size.tokens} tokens and this project's quota is request_tokens "
            f"{quotas.request_tokens}. Split the batch, ask for fewer tokens, or {_ASK}"
        )
    most = quotas.tokens_per_minute * LONGEST_WAIT_MIN
    if most and size.tokens > most:
        raise InvalidInputError(
            f"this request has {size.tokens} tokens and this project's quota is tokens_per_minute "
            f"{quotas.tokens_per_minute}; one request may take {LONGEST_WAIT_MIN} minutes of it, "
            f"{most} tokens. Split the batch, ask for fewer tokens, or {_ASK}"
        )


_ASK = "ask the server's operator for more (`tinsmith projects set`)"
