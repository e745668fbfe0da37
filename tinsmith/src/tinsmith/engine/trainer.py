"""Training ops of one run: forward, backward and the optimizer's step.

Shape suffixes: T packed tokens, K targets per position, H hidden size, P all parameters.
"""

from __future__ import annotations

import math

import torch

from tinsmith.domain.errors import InvalidInputError, UserError
from tinsmith.domain.ops import ForwardBackward, OptimStep
from tinsmith.domain.outcomes import ForwardBackwardDone, StepDone
from tinsmith.domain.training_rules import check_adam, check_forward_backward
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.micro_batch import MicroBatchPass, TrainingSettings
from tinsmith.engine.training_state import TrainingState
from tinsmith.nn.losses import LOSSES
from tinsmith.nn.optimizers.adamw import Hyperparameters, adamw_, clip_


class Trainer:
    """Executes the ops of one run on its base model. Holds nothing of its own but the two."""

    def __init__(
        self,
        base: BaseModel,
        state: TrainingState,
        settings: TrainingSettings | None = None,
    ) -> None:
        """
        Args:
            settings: the defaults if none are given; part of what a replay must repeat.
        """
        self.base = base
        self.state = state
        self.settings = settings or TrainingSettings()

    def validate(self, op: ForwardBackward) -> None:
        """Raises InvalidInputError, naming value and place, unless the op can be executed."""
        check_forward_backward(op, self.base.limits, LOSSES)

    def start(self, op: ForwardBackward) -> MicroBatchPass:
        """Validate the op and prepare its execution, micro-batch by micro-batch:

            work = trainer.start(op)
            while (done := work.advance()) is None:
                ...  # a turn of somebody else

        Nothing of the run changes before the last advance() returns. If start() or advance()
        raises, nothing has changed but the note that this gradient window is incomplete.

        Raises:
            InvalidInputError: see validate.
        """
        try:
            self.validate(op)
        except InvalidInputError as error:
            if not op.forward_only:
                self.state.fail_window(str(error))
            raise
        return MicroBatchPass(self.base, self.state, op, self.settings)

    def forward_backward(self, op: ForwardBackward) -> ForwardBackwardDone:
        """The whole op in one go."""
        work = self.start(op)
        while (done := work.advance()) is None:
            pass
        return done

    @torch.no_grad()
    def optim_step(self, op: OptimStep) -> StepDone:
        """Apply the window's gradient and clear it, which also happens if the step fails.

        Raises:
            InvalidInputError: parameters out of range; no gradient; an incomplete gradient.
            UserError: the step would leave weights that are not finite.
        """
        gradient_P, failure = self.state.gradient_P, self.state.window_failure
        self.state.clear_window()
        check_adam(op.adam)
        if failure is not None:
            raise InvalidInputError(
                "this step was not taken, because a forward_backward since the last optim_step "
                f"failed and the gradient is incomplete ({failure}). The gradient has been "
                "cleared: send the batch again, then step"
            )
        if gradient_P is None:
            raise InvalidInputError(
                "there is no gradient to step with: send a forward_backward before optim_step"
            )
        optimizer, adapter = self.state.optimizer, self.state.adapter
        grad_norm = float(clip_(gradient_P, op.adam.grad_clip_norm))
        if not math.isfinite(grad_norm):
            raise UserError(
                f"the gradient's norm is {grad_norm}: the weights in the batch are too large, or "
                "training has diverged. The gradient has been cleared"
            )
        was_taken = adamw_(
            adapter.weights_P,
            optimizer.exp_avg_P,
            optimizer.exp_avg_sq_P,
            gradient_P,
            optimizer.num_steps + 1,
            Hyperparameters(
                learning_rate=op.adam.learning_rate,
                beta1=op.adam.beta1,
                beta2=op.adam.beta2,
                eps=op.adam.eps,
                weight_decay=op.adam.weight_decay,
            ),
        )
        if not was_taken:
            raise UserError(
                f"the step with {op.adam} would leave weights that are not finite; nothing but "
                "the gradient has changed. Lower the learning rate, or raise eps"
            )
        optimizer.num_steps += 1
        return StepDone({"grad_norm:mean": grad_norm})
