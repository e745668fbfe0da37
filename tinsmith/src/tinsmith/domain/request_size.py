"""How large a request is, by what quotas count."""

from __future__ import annotations

from dataclasses import dataclass

from tinsmith.domain.ops import ForwardBackward, Op, Sample


@dataclass(frozen=True, slots=True)
class RequestSize:
    tokens: int = 0
    """Input tokens, and of a sample those that its answers may have."""
    datums: int = 0
    longest_sequence: int = 0
    """In tokens; of a sample prompt and answer together."""

    @classmethod
    def of(cls, op: Op, max_context: int) -> RequestSize:
        """All 0 for what reads no tokens, such as an optimizer step or a save.

        Args:
            max_context: where an answer ends, whatever is asked for.
        """
        match op:
            case ForwardBackward(data=data):
                lengths = [datum.tokens.size for datum in data]
                return cls(sum(lengths), len(lengths), max(lengths, default=0))
            case Sample():
                room = max(max_context - op.prompt.size, 0)
                asked = op.params.max_tokens
                answer = room if asked is None else min(asked, room)
                return cls(
                    op.prompt.size + op.num_samples * answer,
                    0,
                    min(op.prompt.size + answer, max_context),
                )
            case _:
                return cls()
