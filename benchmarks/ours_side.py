"""Our engine without ledger and HTTP. Settings: those of our_engine.make_trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import cycle

import torch
from mail_batches import num_tokens, to_op
from our_engine import adam, make_trainer
from sides import Spec


def run(spec: Spec, turns: Iterator[None], tell: Callable[[dict[str, float]], None]) -> None:
    trainer = make_trainer(spec.directory, spec.dtype, spec.device, spec.rank, **spec.settings)
    optim_step = adam(spec.learning_rate)
    batches = [(num_tokens(batch), batch, to_op(batch)) for batch in spec.task.batches()]
    for (tokens, batch, op), _ in zip(cycle(batches), turns, strict=False):
        started = time.perf_counter()
        done = trainer.forward_backward(op)
        trainer.optim_step(optim_step)
        if spec.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        loss = done.metrics["loss:sum"] / sum(example.num_weighted for example in batch)
        tell({"seconds": seconds, "tokens": tokens, "loss": loss})
