"""What can go wrong, as a tree. Status codes live in `api`, nowhere below it.

TinsmithError
  UserError            sending it again will not help
    InvalidInputError    a value is out of range, misshapen or unknown
    NotFoundError        no such thing, or not yours
    SequenceReusedError  the place in the sequence holds different work
    AccessError          no key, or one that opens nothing here
    ForbiddenError       the key's role may not do this
  ServiceError         ours; sending it again may help
    BusyError            no room for this now
    StorageError         a disk or database refused
"""

from __future__ import annotations


class TinsmithError(Exception):
    """Root of everything that we raise on purpose."""


class UserError(TinsmithError):
    """The request is wrong; repeating it will not help."""


class InvalidInputError(UserError):
    """A value is out of range, misshapen or unknown. The message names it and what is allowed."""


class NotFoundError(UserError):
    """No such thing, or it belongs to somebody else: the two look alike from outside."""


class AccessError(UserError):
    """No API key, or one that opens nothing here."""


class ForbiddenError(UserError):
    """A good key, whose role may not do this."""


class SequenceReusedError(UserError):
    """A (run, seq_id) already holds different work."""

    def __init__(self, *, scope: str, seq_id: int, first: str, second: str) -> None:
        super().__init__(
            f"seq_id {seq_id} of {scope} already holds a {first}; this {second} differs. "
            "Retry with the original body, or send new work under the next seq_id."
        )


class ServiceError(TinsmithError):
    """Our side failed; repeating the request may help."""


class BusyError(ServiceError):
    """There is no room for this now; wait and repeat."""

    retry_after_s: float | None = None
    """When to repeat, if that is known."""


class StorageError(ServiceError):
    """A disk or a database refused a write; nothing of it was kept."""
