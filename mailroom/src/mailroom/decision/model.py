"""From a reference to something that predicts: a `tinker://` path, or the base model itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mailroom.config import served_name
from mailroom.decision.run_metadata import prompt_digest, read_metadata, read_temperature
from mailroom.errors import MailroomError, MisuseError
from mailroom.prompt.chat import MAX_PROMPT_TOKENS
from mailroom.service.address import SAMPLER_WEIGHTS, Address
from mailroom.service.tokenizers import use_hub_facade
from mailroom.taxonomy import Taxonomy

if TYPE_CHECKING:
    import tinker

    from mailroom.decision.predictor import Predictor
    from mailroom.service.connect import Service

BASE = "base"
"""The reference that means the base model without an adapter."""


@dataclass(frozen=True, slots=True)
class Model:
    """Which weights, and how they were taught to read and answer."""

    reference: str
    """BASE or a tinker:// path of sampler weights."""
    base_model: str
    taxonomy: Taxonomy
    max_prompt_tokens: int
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the run that trained it, where they are known."""
    temperature: float = 1.0
    """What its scores are divided by, so that a probability means what it says; 1 if not known."""

    def base(self) -> Model:
        """The base model under the same taxonomy and prompt: the state before training."""
        return replace(self, reference=BASE, temperature=1.0)


def check_reference(reference: str) -> str:
    """The reference itself, if it is one.

    Raises:
        MisuseError: it is neither `base` nor a path of sampler weights.
    """
    if reference == BASE:
        return reference
    try:
        kind = Address.parse(reference).kind
    except MisuseError as error:
        raise MisuseError(
            f"{reference!r} is no model: give `base`, or a path that `mailroom train` printed, "
            "tinker://<run>/sampler_weights/<name>"
        ) from error
    if kind != SAMPLER_WEIGHTS:
        raise MisuseError(
            f"{reference!r} is a checkpoint to train on from; to read mail with, give the run's "
            "tinker://<run>/sampler_weights/<name>"
        )
    return reference


def find_model(
    service: Service,
    reference: str,
    *,
    base_model: str,
    taxonomy: Taxonomy | None,
    say: Callable[[str], None],
) -> Model:
    """What the service knows about a reference.

    Args:
        base_model: what `base` stands for, as the user wrote it.
        taxonomy: goes before the run's own; `base` needs one.

    Raises:
        MailroomError: no such path, or there is no telling its taxonomy.
    """
    if check_reference(reference) == BASE:
        if taxonomy is None:
            raise MailroomError("the base model has no taxonomy of its own; add --taxonomy")
        return Model(BASE, served_name(base_model), taxonomy, MAX_PROMPT_TOKENS)
    model = find_trained_model(service, reference, taxonomy=taxonomy, say=say)
    if service.local is not None and model.base_model not in service.base_model_names():
        raise MailroomError(
            f"{reference} belongs to the base model {model.base_model}, which the service does not "
            f"offer now; add --base-model {model.base_model}"
        )
    return model


def find_trained_model(
    service: Service,
    reference: str,
    *,
    taxonomy: Taxonomy | None,
    say: Callable[[str], None],
) -> Model:
    """What the service's records say about a tinker:// path of any kind.

    Raises:
        MailroomError: no such path, or there is no telling its taxonomy.
    """
    run = _training_run(service, reference)
    found = read_metadata(run.user_metadata)
    if found is not None and found.prompt_digest != prompt_digest(found.taxonomy):
        say("this model was trained with other words around the mail; expect it to do worse")
    if found is None:
        if taxonomy is None:
            raise MailroomError(f"{reference} carries no taxonomy; add --taxonomy NAME_OR_FILE")
        return Model(reference, run.base_model, taxonomy, MAX_PROMPT_TOKENS)
    used = taxonomy or found.taxonomy
    return Model(
        reference,
        run.base_model,
        used,
        found.max_prompt_tokens,
        found.training,
        _temperature(service, reference) if used == found.taxonomy else 1.0,
    )


def open_predictor(
    service: Service,
    session: tinker.ServiceClient,
    model: Model,
    *,
    writes: bool = True,
    scores: bool = True,
    free: bool = False,
) -> Predictor:
    """A predictor for the model, with the tokenizer that the SDK finds for it."""
    use_hub_facade(service.url, model.base_model)
    from mailroom.decision.predictor import Predictor

    if model.reference == BASE:
        client = service.wait(session.create_sampling_client(base_model=model.base_model))
    else:
        client = service.wait(session.create_sampling_client(model_path=model.reference))
    return Predictor(
        client,
        client.get_tokenizer(),
        model.taxonomy,
        max_prompt_tokens=model.max_prompt_tokens,
        writes=writes,
        scores=scores,
        free=free,
        temperature=model.temperature,
        wait=service.wait,
    )


def _temperature(service: Service, reference: str) -> float:
    """What the weights carry; 1 where the service does not tell."""
    import tinker

    try:
        listed = service.wait(service.rest().list_checkpoints(Address.parse(reference).run_id))
    except tinker.APIError:
        return 1.0
    for checkpoint in listed.checkpoints:
        if checkpoint.tinker_path == reference:
            return read_temperature(checkpoint.user_metadata)
    return 1.0


def _training_run(service: Service, reference: str) -> tinker.TrainingRun:
    import tinker

    try:
        return service.wait(service.rest().get_training_run_by_tinker_path(reference))
    except (tinker.NotFoundError, ValueError) as error:
        raise MailroomError(
            f"the service at {service.url} has no {reference}; is it another service's, another "
            "--home's, or deleted?"
        ) from error
