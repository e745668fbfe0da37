"""One training run from corpus to sampler weights, picked up where an earlier command stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import tinker

from mailroom.decision.run_metadata import STATE_KEY, TEMPERATURE_KEY, metadata_for
from mailroom.errors import MailroomError
from mailroom.mail.message import Message
from mailroom.prompt.tokens import encode_example, to_datum
from mailroom.service.address import Address
from mailroom.service.connect import Service
from mailroom.service.remembered import remember
from mailroom.service.tokenizers import use_hub_facade
from mailroom.taxonomy import Taxonomy
from mailroom.training.adapter_size import trainable_parameters
from mailroom.training.calibrate import SortedMessage, calibrate
from mailroom.training.loop import STEPS_AHEAD, train_steps
from mailroom.training.plan import Plan
from mailroom.training.run_directory import RunDirectory, RunState, StepMetrics
from mailroom.training.schedule import num_steps, steps_per_epoch

SAMPLER_NAME = "final"


class LabelledMessage(Protocol):
    """What training needs of an example of the corpus."""

    @property
    def message(self) -> Message: ...
    @property
    def completion(self) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    steps: int
    first_loss: float
    last_loss: float
    seconds: float
    model: str
    """tinker:// path of the sampler weights."""
    state: str
    """tinker:// path of the last checkpoint, to train on from."""
    trainable_parameters: int | None
    """None where the base model's shape is not known to us."""
    adapter_bytes: int | None
    """Size of the sampler weights in the service; None where it does not say."""
    resumed_from: int
    """Steps that an earlier command had done."""
    was_complete: bool
    """Whether there was nothing left to do."""
    temperature: float
    """What the model's scores are divided by, so that its confidence means what it says."""


def train(
    service: Service,
    examples: Sequence[LabelledMessage],
    taxonomy: Taxonomy,
    plan: Plan,
    directory: RunDirectory,
    *,
    corpus: str,
    corpus_digest: str,
    base_model: str,
    held_out: Sequence[SortedMessage] = (),
    checkpoint_every: int = 0,
    fresh: bool = False,
    sync: bool = False,
    on_step: Callable[[StepMetrics, int], None] = lambda metrics, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Train on the first `plan.num_examples` examples; go on with what the directory holds.

    Args:
        corpus: what the data is called. It travels with the run and stands on the model card, so
            no path of this machine.
        base_model: as the user wrote it, to start a local service with when the run is used again.
        held_out: mail that is not trained on, to calibrate the model's confidence by.
        checkpoint_every: steps between checkpoints; 0 is once an epoch, at least every 100 steps.
        fresh: forget what the directory holds.
        sync: wait for each step before sending the next; the same numbers, slower.

    Raises:
        MailroomError: no examples, or the directory holds another run.
    """
    chosen = examples[: plan.num_examples or None]
    if not chosen:
        raise MailroomError(f"{corpus} holds no examples to train on")
    digest = plan.digest(corpus_digest, service.identity)
    state = None if fresh else directory.load()
    if state is None:
        state = RunState(digest=digest, plan=asdict(plan), corpus=corpus)
    if state.digest != digest:
        raise MailroomError(
            f"{directory.path} holds a run with other settings, data or service; "
            "name another folder with --run, or forget that run with --fresh"
        )
    total, resumed_from = num_steps(plan, len(chosen)), state.step
    if state.is_complete:
        say(f"already trained ({total} steps); --fresh trains again")
        return _trained(directory, state, resumed_from, was_complete=True)
    directory.truncate_metrics(state.step)
    if state.checkpoint is not None:
        say(f"going on after step {state.step} of {total}")
    metadata = metadata_for(taxonomy, plan.max_prompt_tokens, {**asdict(plan), "corpus": corpus})
    with service.session() as session:
        client = _training_client(service, session, plan, state, metadata)
        if service.local is not None:
            remember(service.local.home, client.model_id, base_model=base_model)
        use_hub_facade(service.url, plan.base_model)
        tokenizer = client.get_tokenizer()
        state = replace(state, trainable_parameters=_count_parameters(plan))
        directory.save(state)
        if state.trainable_parameters is not None:
            say(f"training {state.trainable_parameters:,} parameters (rank {plan.rank})")
        data = [
            to_datum(
                encode_example(
                    example.message,
                    example.completion,
                    tokenizer,
                    taxonomy,
                    plan.max_prompt_tokens,
                )
            )
            for example in chosen
        ]
        state = train_steps(
            client,
            data,
            plan,
            directory,
            state,
            checkpoint_every=checkpoint_every or min(100, steps_per_epoch(plan, len(data))),
            metadata=metadata,
            wait=service.wait,
            steps_ahead=1 if sync else STEPS_AHEAD,
            on_step=on_step,
        )
        temperature = calibrate(
            service, client, tokenizer, taxonomy, plan.max_prompt_tokens, held_out, say
        )
        state = replace(state, temperature=temperature)
        assert state.checkpoint is not None
        saved = client.save_weights_for_sampler(
            SAMPLER_NAME,
            user_metadata={
                **metadata,
                STATE_KEY: state.checkpoint,
                TEMPERATURE_KEY: repr(temperature),
            },
        )
        state = replace(state, model=service.wait(saved).path)
        assert state.model is not None
        state = replace(state, adapter_bytes=_stored_bytes(service, state.model))
        directory.save(state)
    return _trained(directory, state, resumed_from, was_complete=False)


def _training_client(
    service: Service,
    session: tinker.ServiceClient,
    plan: Plan,
    state: RunState,
    metadata: dict[str, str],
) -> tinker.TrainingClient:
    if state.checkpoint is None:
        return service.wait(
            session.create_lora_training_client(
                plan.base_model,
                rank=plan.rank,
                seed=plan.seed,
                train_unembed=plan.train_unembed,
                user_metadata=metadata,
            )
        )
    try:
        return service.wait(
            session.create_training_client_from_state_with_optimizer(
                state.checkpoint, user_metadata=metadata
            )
        )
    except (tinker.NotFoundError, tinker.RequestFailedError) as error:
        raise MailroomError(
            f"the service cannot go on from {state.checkpoint}: {error}. --fresh starts over"
        ) from error


def _count_parameters(plan: Plan) -> int | None:
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(plan.base_model, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    return trainable_parameters(config, plan.rank, train_unembed=plan.train_unembed)


def _stored_bytes(service: Service, path: str) -> int | None:
    try:
        listed = service.wait(service.rest().list_checkpoints(Address.parse(path).run_id))
    except tinker.APIError:
        return None
    sizes = [found.size_bytes for found in listed.checkpoints if found.tinker_path == path]
    return sizes[0] if sizes else None


def _trained(
    directory: RunDirectory, state: RunState, resumed_from: int, *, was_complete: bool
) -> Trained:
    metrics = directory.metrics()
    if not metrics or state.model is None or state.checkpoint is None:
        raise MailroomError(f"{directory.path} is incomplete; --fresh trains again")
    return Trained(
        steps=state.step,
        first_loss=metrics[0].loss,
        last_loss=metrics[-1].loss,
        seconds=state.seconds,
        model=state.model,
        state=state.checkpoint,
        trainable_parameters=state.trainable_parameters,
        adapter_bytes=state.adapter_bytes,
        resumed_from=resumed_from,
        was_complete=was_complete,
        temperature=state.temperature,
    )
