"""The front's use cases in one value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinsmith.checkpoints.snapshots import SnapshotStore
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.config import Config
from tinsmith.domain.records import ServedModel
from tinsmith.domain.training_rules import LossRule
from tinsmith.ledger.ledger import Ledger
from tinsmith.service.access import Access
from tinsmith.service.audit import Audit
from tinsmith.service.checkpoints import Checkpoints
from tinsmith.service.completions import Completions
from tinsmith.service.disk_use import DiskUseMeter
from tinsmith.service.free_space import FreeSpace
from tinsmith.service.futures import Futures
from tinsmith.service.keyring import Keyring
from tinsmith.service.model_samplers import ModelSamplers
from tinsmith.service.models import Models
from tinsmith.service.quotas import Quotas
from tinsmith.service.retention import Retention
from tinsmith.service.runs import Runs
from tinsmith.service.samplers import Samplers
from tinsmith.service.sessions import Sessions
from tinsmith.service.signing import Signer
from tinsmith.service.streams import Streams
from tinsmith.service.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Service:
    access: Access
    audit: Audit
    sessions: Sessions
    runs: Runs
    samplers: Samplers
    model_samplers: ModelSamplers
    futures: Futures
    completions: Completions
    streams: Streams
    checkpoints: Checkpoints
    models: Models
    retention: Retention
    quotas: Quotas
    disk: DiskUseMeter

    @classmethod
    def build(
        cls,
        ledger: Ledger,
        store: CheckpointStore,
        models: Sequence[ServedModel],
        *,
        losses: Sequence[LossRule],
        config: Config,
        ring: Callable[[str], object],
        tell_cancelled: Callable[[str, str], object] | None = None,
    ) -> Service:
        """Put the parts together.

        Args:
            losses: what the engines can compute, by name.
            ring: called with the name of one of `models` whenever the ledger holds something for
                its engine; may be called from any thread.
            tell_cancelled: called with a base model and the request_id of a sample of its that was
                cancelled; from any thread.
        """
        served = Models(models)
        names = {model.name for model in models}

        def ring_if_served(base_model: str) -> None:
            # A session that ends may have runs of a model that was served before the last restart.
            if base_model in names:
                ring(base_model)

        sessions = Sessions(ledger, config.service, ring_if_served)
        snapshots = SnapshotStore(Path(config.home) / "snapshots")
        space = FreeSpace(config.home, config.limits.min_free_bytes)
        quotas = Quotas(ledger, config.limits, config.quotas, space)
        samplers = Samplers(ledger, sessions, served, config.limits, quotas, ring_if_served)
        signer = Signer(Path(config.home) / "download-secret")
        return cls(
            access=Access(Tokens(Path(config.home) / "token-secret"), Keyring(ledger)),
            audit=Audit(ledger, config.service.audit_retention_s),
            sessions=sessions,
            runs=Runs(ledger, sessions, served, losses, config.limits, quotas, ring_if_served),
            samplers=samplers,
            model_samplers=ModelSamplers(ledger, sessions, served, samplers),
            completions=Completions(ledger),
            futures=Futures(ledger, tell_cancelled),
            streams=Streams(),
            checkpoints=Checkpoints(ledger, store, signer, config.service, quotas),
            models=served,
            retention=Retention(
                ledger, store, snapshots, sessions, config.service, config.recovery
            ),
            quotas=quotas,
            disk=DiskUseMeter(config, ledger),
        )

    def wake(self, request_ids: Sequence[str]) -> None:
        """Tell whoever waits for these requests that the ledger holds their outcomes."""
        self.futures.wake(request_ids)
        self.completions.wake(request_ids)

    def close(self) -> None:
        """Stop what runs in the background; the ledger stays open."""
        self.futures.close()
