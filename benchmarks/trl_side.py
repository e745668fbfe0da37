"""TRL's SFTTrainer with PEFT. Settings: `padding_free`, and `autocast` for bf16."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mail_batches import num_tokens
from peft_side import lora_config
from shapes import byte_tokenizer
from sides import Spec

LONGEST_RUN = 10_000
"""Steps; the parent ends it earlier."""


def run(spec: Spec, turns: Iterator[None], tell: Callable[[dict[str, float]], None]) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    batches = spec.task.batches()

    class Stepped(TrainerCallback):
        """Each step waits for its turn and is timed from the batch at hand to the new weights."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if next(turns, self) is self:
                raise EOFError
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if spec.device != "cpu":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - self.started
            batch = batches[(state.global_step - 1) % len(batches)]
            tell({"seconds": seconds, "tokens": num_tokens(batch), "loss": trainer.loss.item()})

    class Trainer(SFTTrainer):
        """Remembers the last loss, so that the sides can be seen to compute the same."""

        def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
            self.loss = super().training_step(*arguments, **named)
            return self.loss

    rows = [
        {
            "input_ids": list(example.tokens),
            "completion_mask": [int(weight) for weight in example.weights],
        }
        for batch in batches
        for example in batch
    ]
    model = AutoModelForCausalLM.from_pretrained(spec.directory, dtype=getattr(torch, spec.dtype))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                max_length=None,
                completion_only_loss=True,
                padding_free=spec.settings["padding_free"],
                per_device_train_batch_size=spec.task.batch_size,
                gradient_accumulation_steps=1,
                gradient_checkpointing=False,  # slower, and the memory is there
                train_sampling_strategy="sequential",
                max_steps=LONGEST_RUN,
                learning_rate=spec.learning_rate,
                lr_scheduler_type="constant",
                max_grad_norm=0.0,
                bf16=spec.settings["autocast"],
                use_cpu=spec.device == "cpu",
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=byte_tokenizer(),
            peft_config=lora_config(spec.rank),
            callbacks=[Stepped()],
        )
        try:
            trainer.train()
        except EOFError:
            return  # the parent has seen enough
