"""Samplers, and intake of sample requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tinsmith import config
from tinsmith.domain.addresses import CheckpointAddress, sampler_id_of
from tinsmith.domain.errors import InvalidInputError, NotFoundError
from tinsmith.domain.ops import Sample
from tinsmith.domain.records import Caller, Sampler, ServedModel
from tinsmith.domain.request_size import RequestSize
from tinsmith.domain.sampling_rules import check_sample
from tinsmith.ledger.ledger import Ledger
from tinsmith.service.models import Models
from tinsmith.service.quotas import Quotas
from tinsmith.service.seeds import check_seed, seed_of
from tinsmith.service.sessions import Sessions


class Samplers:
    def __init__(
        self,
        ledger: Ledger,
        sessions: Sessions,
        models: Models,
        limits: config.Limits,
        quotas: Quotas,
        ring: Callable[[str], object],
    ) -> None:
        self._ledger = ledger
        self._sessions = sessions
        self._models = models
        self._limits = limits
        self._quotas = quotas
        self._ring = ring

    def create(
        self,
        caller: Caller,
        session_id: str,
        sampling_session_seq_id: int,
        *,
        base_model: str | None = None,
        model_path: str | None = None,
    ) -> Sampler:
        """Sampler `<session_id>:sample:<sampling_session_seq_id>` of a checkpoint (any kind; the
        caller's own or a public one) or, without `model_path`, of a base model. Repeats are safe.

        Raises:
            InvalidInputError: neither given, not an address, a base model that is not served or
                not the checkpoint's, ended session.
            NotFoundError: no such session or checkpoint.
            SequenceReusedError: that number already holds a different sampler.
        """
        if sampling_session_seq_id < 0:
            raise InvalidInputError(
                f"sampling_session_seq_id {sampling_session_seq_id} is out of range: 0 or more"
            )
        sampler_id = sampler_id_of(session_id, sampling_session_seq_id)
        known = self._ledger.sampler(sampler_id)
        if known is None:
            self._sessions.live(caller, session_id)
        else:
            self._sessions.get(caller, session_id)
        if model_path is None:
            if base_model is None:
                raise InvalidInputError("a sampler needs a base_model or a model_path")
            address = None
        else:
            address = CheckpointAddress.parse(model_path)
            if known is not None and known.checkpoint == address:
                return known  # a repeat, which stays good even if the checkpoint has gone since
            checkpoint = self._ledger.visible_checkpoint(address, caller.owner)
            if checkpoint is None:
                raise NotFoundError(f"there is no checkpoint {address}")
            if base_model is not None and base_model != checkpoint.base_model:
                raise InvalidInputError(
                    f"{address} is an adapter of {checkpoint.base_model}, not of {base_model}"
                )
            base_model = checkpoint.base_model
        self._models.get(base_model)
        return self._ledger.create_sampler(
            Sampler(sampler_id, session_id, caller.owner, base_model, address)
        )

    def get(self, caller: Caller, sampler_id: str) -> Sampler:
        """Raises NotFoundError for what is not there or not the caller's."""
        sampler = self._ledger.sampler(sampler_id)
        if sampler is None or sampler.owner != caller.owner:
            raise NotFoundError(f"there is no sampling session {sampler_id!r}")
        return sampler

    def checked(self, caller: Caller, model: ServedModel, sample: Sample) -> Sample:
        """The sample; if it leaves the length of its answer open, that ends with the quota.

        Raises:
            InvalidInputError: a parameter or token out of range, or a quota exceeded.
        """
        check_sample(sample, model.limits, self._limits.max_num_samples)
        return self._quotas.fitted(caller.owner, sample, model)

    def submit(
        self, caller: Caller, sampler_id: str, seq_id: int, sample: Sample, *, seed: int | None
    ) -> tuple[str, tuple[str, ...]]:
        """Log a sample request.

        Args:
            sample: its `params.seed` is not looked at.
            seed: the client's; None derives one from the request's id, so a repeat finds the
                same one.

        Returns:
            the request_id, and one opaque sequence id per sample.

        Raises:
            NotFoundError: no such sampler.
            InvalidInputError: a parameter or token out of range, or a quota exceeded.
            SequenceReusedError: seq_id holds different work.
            BusyError: too much is waiting, or there is no room for now.
        """
        sampler = self.get(caller, sampler_id)
        model = self._models.get(sampler.base_model)
        if seed is None:
            seed = seed_of(sampler_id, seq_id)
        check_seed(seed)
        op = self.checked(caller, model, sample)
        op = replace(op, params=replace(op.params, seed=seed))
        size = RequestSize.of(op, model.max_context)
        with self._quotas.admission(sampler.owner, size.tokens) as backlog:
            request_id = self._ledger.append(
                sampler_id,
                seq_id,
                op,
                owner=sampler.owner,
                base_model=sampler.base_model,
                backlog=backlog,
            )
        self._ring(sampler.base_model)
        return request_id, tuple(f"{request_id}/{i}" for i in range(op.num_samples))
