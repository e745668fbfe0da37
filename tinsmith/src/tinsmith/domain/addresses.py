"""Names: ids of runs and samplers, and the tinker:// addresses of checkpoints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from tinsmith.domain.errors import InvalidInputError

NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,128}")


def run_id_of(session_id: str, model_seq_id: int) -> str:
    """The run's id. The SDK computes the same one for runs created from a checkpoint."""
    return f"{session_id}:train:{model_seq_id}"


def sampler_id_of(session_id: str, sampling_session_seq_id: int) -> str:
    return f"{session_id}:sample:{sampling_session_seq_id}"


class CheckpointKind(StrEnum):
    """The middle part of a tinker:// address."""

    TRAINING = "weights"
    SAMPLER = "sampler_weights"
    EXTERNAL = "external_weights"


def check_name(name: str) -> str:
    """The name itself, if it is safe as a file name and, unescaped, as a part of a URL.

    Raises:
        InvalidInputError: any other name; the SDK puts names into URLs as they are.
    """
    if not NAME_PATTERN.fullmatch(name) or name.startswith("."):
        raise InvalidInputError(
            f"checkpoint name {name!r} is not allowed: use 1 to 128 of the characters "
            "A-Z a-z 0-9 . _ - and no '.' in front"
        )
    return name


@dataclass(frozen=True, slots=True)
class CheckpointAddress:
    """tinker://<run_id>/<kind>/<name>"""

    run_id: str
    kind: CheckpointKind
    name: str

    def __str__(self) -> str:
        return f"tinker://{self.run_id}/{self.kind.value}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> CheckpointAddress:
        """Raises InvalidInputError for anything that is not exactly such an address."""
        head, separator, rest = text.partition("://")
        parts = rest.split("/")
        kinds = [kind.value for kind in CheckpointKind]
        if head != "tinker" or not separator or len(parts) != 3 or parts[1] not in kinds:
            raise InvalidInputError(
                f"{text!r} is not a checkpoint address; expected "
                f"tinker://<run_id>/<{' | '.join(kinds)}>/<name>"
            )
        if not parts[0]:
            raise InvalidInputError(f"{text!r} names no run")
        return cls(parts[0], CheckpointKind(parts[1]), check_name(parts[2]))
