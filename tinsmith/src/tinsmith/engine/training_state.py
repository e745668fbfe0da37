"""Everything that a run's ops change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tinsmith.engine.adapter import AdapterLayout, AdapterState, OptimizerState


@dataclass(frozen=True, slots=True)
class StateNotes:
    """What a run's state holds besides its vectors."""

    num_steps: int
    window_failure: str | None
    window_start: int


class TrainingState:
    """A run's adapter, optimizer and the gradient since the last optim_step (its window)."""

    def __init__(self, adapter: AdapterState, optimizer: OptimizerState | None = None) -> None:
        """A fresh optimizer if none is given."""
        self.adapter = adapter
        self.optimizer = optimizer or OptimizerState.create(adapter.layout)
        self.gradient_P: Tensor | None = None
        """fp32 sum over the window's forward_backward ops; None while there was none."""
        self.window_failure: str | None = None
        """Why a forward_backward of this window failed: its gradient would be half a batch."""
        self.window_start = -1
        """seq_id of the op that the window came after."""

    @classmethod
    def restored(
        cls, layout: AdapterLayout, vectors: Mapping[str, Tensor], notes: StateNotes
    ) -> TrainingState:
        """The state whose `vectors` and `notes` these are; takes the vectors over."""
        optimizer = OptimizerState(
            layout, vectors["exp_avg"], vectors["exp_avg_sq"], notes.num_steps
        )
        state = cls(AdapterState(layout, vectors["weights"]), optimizer)
        state.gradient_P = vectors.get("gradient")
        state.window_failure = notes.window_failure
        state.window_start = notes.window_start
        return state

    def become(self, other: TrainingState) -> None:
        """Take over the values of a state of the same layout; the tensors stay our own."""
        self.adapter.weights_P.copy_(other.adapter.weights_P)
        self.optimizer = other.optimizer
        self.gradient_P = other.gradient_P
        self.window_failure = other.window_failure
        self.window_start = other.window_start

    @property
    def layout(self) -> AdapterLayout:
        return self.adapter.layout

    @property
    def vectors(self) -> dict[str, Tensor]:
        """The state's tensors themselves, by name: fp32 [P], `gradient` only if there is one."""
        vectors = {
            "weights": self.adapter.weights_P,
            "exp_avg": self.optimizer.exp_avg_P,
            "exp_avg_sq": self.optimizer.exp_avg_sq_P,
        }
        return vectors if self.gradient_P is None else {**vectors, "gradient": self.gradient_P}

    @property
    def notes(self) -> StateNotes:
        return StateNotes(self.optimizer.num_steps, self.window_failure, self.window_start)

    def fail_window(self, reason: str) -> None:
        """Note a failed forward_backward, so that the next optim_step refuses to step."""
        self.window_failure = self.window_failure or reason

    def clear_window(self) -> None:
        self.gradient_P = None
        self.window_failure = None

    def enter_window(self, start_seq_id: int) -> None:
        """Drop the gradient of an earlier window: its optim_step was refused before it got here."""
        if start_seq_id != self.window_start:
            self.clear_window()
            self.window_start = start_seq_id
