"""Adapters to sample from, kept in memory while they are in use."""

from __future__ import annotations

from collections import OrderedDict

from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.domain.errors import NotFoundError
from tinsmith.domain.records import Sampler
from tinsmith.engine.adapter import FrozenAdapter, load_frozen
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.project_quotas import ProjectQuotas
from tinsmith.ledger.ledger import Ledger


class FrozenAdapters:
    """The adapter of each sampler, read from its checkpoint. The least recently used leave."""

    def __init__(
        self,
        base_model: BaseModel,
        ledger: Ledger,
        store: CheckpointStore,
        capacity: int,
        quotas: ProjectQuotas | None = None,
    ) -> None:
        """
        Args:
            capacity: adapters kept, of all projects.
            quotas: how many of one project; None: no more is asked.
        """
        self._base_model = base_model
        self._ledger = ledger
        self._store = store
        self._capacity = capacity
        self._quotas = quotas
        self._samplers: dict[str, Sampler] = {}
        self._adapters: OrderedDict[str, FrozenAdapter] = OrderedDict()
        """By the checkpoint's digest, so that an overwritten one is read anew."""
        self._used_by: dict[str, str] = {}
        """Digest -> the project that has asked for it last."""

    def of_sampler(self, sampler_id: str) -> FrozenAdapter | None:
        """None for a sampler of the base model itself.

        Raises:
            NotFoundError: its checkpoint was deleted or has expired.
            InvalidInputError: its checkpoint is corrupt.
        """
        sampler = self._samplers.get(sampler_id) or self._ledger.sampler(sampler_id)
        if sampler is None:
            raise NotFoundError(f"there is no sampler {sampler_id}")
        self._samplers[sampler_id] = sampler
        if sampler.checkpoint is None:
            return None
        checkpoint = self._ledger.visible_checkpoint(sampler.checkpoint, sampler.owner)
        if checkpoint is None:
            raise NotFoundError(
                f"checkpoint {sampler.checkpoint} was deleted or has expired; create a sampling "
                "client from one that exists"
            )
        adapter = self._adapters.pop(checkpoint.digest, None)
        if adapter is None:
            arrays, _ = self._store.read_adapter(sampler.checkpoint)
            adapter = load_frozen(self._base_model, checkpoint.lora, arrays)
        self._adapters[checkpoint.digest] = adapter
        self._used_by[checkpoint.digest] = sampler.owner
        while len(self._adapters) > self._capacity:
            self._forget(next(iter(self._adapters)))
        self._keep_quota(sampler.owner)
        return adapter

    def _keep_quota(self, owner: str) -> None:
        allowed = 0 if self._quotas is None else self._quotas.resident_adapters(owner)
        theirs = [digest for digest in self._adapters if self._used_by[digest] == owner]
        for digest in theirs[:-allowed] if allowed else ():
            self._forget(digest)

    def _forget(self, digest: str) -> None:
        del self._adapters[digest], self._used_by[digest]
