"""The `tinker://` path of weights in a service, taken apart in one place."""

from __future__ import annotations

from dataclasses import dataclass

from mailroom.errors import MisuseError

SAMPLER_WEIGHTS = "sampler_weights"
"""What one samples from."""
WEIGHTS = "weights"
"""A training checkpoint: with the optimizer's state, to train on from."""
EXTERNAL_WEIGHTS = "external_weights"
"""An export that the service keeps for a while, to be fetched."""
KINDS = (SAMPLER_WEIGHTS, WEIGHTS, EXTERNAL_WEIGHTS)


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of tinker://<run>/<kind>/<name>."""

    run_id: str
    kind: str
    """One of KINDS."""
    name: str

    @classmethod
    def parse(cls, path: str) -> Address:
        """Raises MisuseError for anything that is not such a path."""
        head, _, rest = path.partition("://")
        parts = rest.split("/")
        if head != "tinker" or len(parts) != 3 or not all(parts) or parts[1] not in KINDS:
            raise MisuseError(
                f"{path!r} is no path of weights; give what `mailroom train` printed, "
                "tinker://<run>/sampler_weights/<name>"
            )
        return cls(*parts)

    def __str__(self) -> str:
        return f"tinker://{self.run_id}/{self.kind}/{self.name}"
