"""Sampling by a model's name, for clients that know neither sessions nor numbers."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.errors import InvalidInputError, NotFoundError
from tinsmith.domain.ops import Sample
from tinsmith.domain.records import Caller, Checkpoint, ServedModel
from tinsmith.ledger.ledger import Ledger
from tinsmith.service.models import Models
from tinsmith.service.samplers import Samplers
from tinsmith.service.sessions import Sessions

ADDRESS_MARK = "tinker://"
MAX_LISTED = 1000


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A base model, or an adapter of one by its address."""

    name: str
    base: ServedModel
    checkpoint: Checkpoint | None = None


@dataclass(slots=True)
class _Open:
    """A caller's session and the next number for a sampler in it."""

    session_id: str
    numbers: Iterator[int]


class ModelSamplers:
    """Keeps one sampler for each caller and model, made when first asked for."""

    def __init__(
        self, ledger: Ledger, sessions: Sessions, models: Models, samplers: Samplers
    ) -> None:
        self._ledger = ledger
        self._sessions = sessions
        self._models = models
        self._samplers = samplers
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}
        """By owner."""
        self._made: dict[tuple[str, str], tuple[str, Iterator[int]]] = {}
        """(owner, model) -> sampler and the next number for a request to it."""

    def list(self, caller: Caller) -> list[NamedModel]:
        """The base models, then those for sampling among the caller's newest checkpoints."""
        models = {model.name: model for model in self._models.list()}
        found, _ = self._ledger.checkpoints(caller.owner, limit=MAX_LISTED)
        return [NamedModel(name, model) for name, model in models.items()] + [
            NamedModel(str(checkpoint.address), models[checkpoint.base_model], checkpoint)
            for checkpoint in found
            if checkpoint.base_model in models and checkpoint.address.kind is CheckpointKind.SAMPLER
        ]

    def find(self, caller: Caller, name: str) -> NamedModel:
        """What is called so: a base model, or a checkpoint that is the caller's or public.

        Raises:
            NotFoundError: no such thing, or not the caller's.
        """
        missing = NotFoundError(
            f"the model {name!r} does not exist, or you have no access to it; GET /v1/models "
            "lists what there is"
        )
        try:
            if not name.startswith(ADDRESS_MARK):
                return NamedModel(name, self._models.get(name))
            checkpoint = self._ledger.visible_checkpoint(
                CheckpointAddress.parse(name), caller.owner
            )
            if checkpoint is None:
                raise missing
            return NamedModel(name, self._models.get(checkpoint.base_model), checkpoint)
        except InvalidInputError as error:
            raise missing from error

    def submit(
        self, caller: Caller, model: NamedModel, samples: Sequence[Sample], *, seed: int | None
    ) -> list[str]:
        """Log sample requests; returns their request ids.

        Raises:
            InvalidInputError: one of them is wrong; none was logged.
            BusyError: too much is waiting.
        """
        for sample in samples:
            self._samplers.checked(caller, model.base, sample)
        sampler_id, numbers = self._sampler(caller, model)
        return [
            self._samplers.submit(caller, sampler_id, next(numbers), sample, seed=seed)[0]
            for sample in samples
        ]

    def _sampler(self, caller: Caller, model: NamedModel) -> tuple[str, Iterator[int]]:
        with self._lock:
            place = (caller.owner, model.name)
            if place not in self._made:
                session = self._session(caller)
                sampler = self._samplers.create(
                    caller,
                    session.session_id,
                    next(session.numbers),
                    base_model=model.base.name,
                    model_path=None if model.checkpoint is None else model.name,
                )
                self._made[place] = (sampler.sampler_id, itertools.count())
            return self._made[place]

    def _session(self, caller: Caller) -> _Open:
        """One that is live. That it may end later, of silence, does its samplers no harm."""
        known = self._open.get(caller.owner)
        if known is not None:
            session = self._ledger.session(known.session_id)
            if session is not None and session.ended_at is None:
                return known
        session = self._sessions.create(caller, tags=["openai"])
        self._open[caller.owner] = _Open(session.session_id, itertools.count())
        return self._open[caller.owner]
