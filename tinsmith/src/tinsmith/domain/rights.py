"""What each role may do: the one table. Routes say what they need."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from tinsmith.domain.errors import ForbiddenError
from tinsmith.domain.projects import LOCAL_PROJECT, Role
from tinsmith.domain.records import Caller


class Right(StrEnum):
    READ = "read"
    """See what is in the project: lists, results, downloads."""
    WORK = "work"
    """Train, sample, save, copy."""
    MANAGE = "manage"
    """Delete, publish, let expire, label; read the project's audit log."""
    OPERATE = "operate"
    """See the server as a whole, all projects together."""


RIGHTS: Mapping[Role, frozenset[Right]] = {
    Role.READ_ONLY: frozenset({Right.READ}),
    Role.MEMBER: frozenset({Right.READ, Right.WORK}),
    Role.OWNER: frozenset({Right.READ, Right.WORK, Right.MANAGE}),
}
_TO_DO = {
    Right.READ: "read",
    Right.WORK: "train, sample or save",
    Right.MANAGE: "delete, publish, let expire, label or read the audit log",
}


def check_right(caller: Caller, right: Right) -> None:
    """Raises ForbiddenError. The server as a whole is shown to the operator's project alone, in
    whatever role."""
    if right is Right.OPERATE:
        if caller.owner != LOCAL_PROJECT:
            raise ForbiddenError(
                f"this is for the server's operator: it takes a key of the project "
                f"{LOCAL_PROJECT!r}, and yours is of {caller.owner!r}"
            )
    elif right not in RIGHTS[caller.role]:
        able = " or ".join(role for role in RIGHTS if right in RIGHTS[role])
        raise ForbiddenError(
            f"this key's role in project {caller.owner!r} is {caller.role}, which may not "
            f"{_TO_DO[right]}; use a key whose role is {able}"
        )
