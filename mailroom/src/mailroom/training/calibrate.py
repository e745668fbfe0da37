"""How sure a trained model may be: asked on mail that it was not trained on, before it is saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import tinker

from mailroom.decision.calibration import MIN_EXAMPLES, fit_temperature
from mailroom.decision.predictor import Predictor
from mailroom.mail.message import Message
from mailroom.service.connect import Service
from mailroom.taxonomy import Taxonomy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SortedMessage(Protocol):
    """What calibration needs of a held-out example."""

    @property
    def message(self) -> Message: ...
    @property
    def category(self) -> str: ...


def calibrate(
    service: Service,
    client: tinker.TrainingClient,
    tokenizer: PreTrainedTokenizerBase,
    taxonomy: Taxonomy,
    max_prompt_tokens: int,
    held_out: Sequence[SortedMessage],
    say: Callable[[str], None],
) -> float:
    """The temperature for the probabilities of the weights that the client holds; 1 where the
    held-out examples do not tell one, which is said."""
    if len(held_out) < MIN_EXAMPLES:
        say(
            f"{len(held_out)} held-out mails are too few to calibrate by ({MIN_EXAMPLES} at "
            "least); confidence stays as the model has it"
        )
        return 1.0
    predictor = Predictor(
        service.wait(client.save_weights_and_get_sampling_client()),
        tokenizer,
        taxonomy,
        max_prompt_tokens=max_prompt_tokens,
        writes=False,
        wait=service.wait,
    )
    found = predictor.predict([example.message for example in held_out])
    temperature = fit_temperature(
        [prediction.probabilities for prediction in found],
        [example.category for example in held_out],
    )
    if temperature is None:
        say(
            f"{len(held_out)} held-out mails tell no temperature: the model errs on too few of "
            "them, or on nearly all; confidence stays as the model has it"
        )
        return 1.0
    say(f"calibrated on {len(held_out)} held-out mails: temperature {temperature:.2f}")
    return temperature
