"""What the model says about one message, before anything is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mailroom.taxonomy import Answer


@dataclass(frozen=True, slots=True)
class Prediction:
    """The greedy answer, and the closed set of categories scored by logprob."""

    text: str
    """What the model wrote, without the end-of-text token."""
    answer: Answer | None
    """The text read back, or None where it does not follow the four-step form exactly."""
    num_tokens: int
    """Of the text, the stopping one included."""
    stopped: bool
    """Whether the model ended by itself; otherwise the limit cut it off."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Category key -> probability, adding up to 1 over the taxonomy; empty if not scored."""
    num_given: int = 0
    """Tokens that were taken as given, after a look at what the model would have written there,
    instead of generated."""

    @property
    def likeliest(self) -> str | None:
        """The scored category, or None if nothing was scored."""
        if not self.probabilities:
            return None
        return max(self.probabilities, key=self.probabilities.__getitem__)
