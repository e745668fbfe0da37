"""Training checkpoints that no client has saved: imports, and forks of runs.

Works beside a running server and without one: bytes first, under a lock that keeps a server which
just starts from tidying them away, then the catalogue's rows in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.config import Config
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.adopted_runs import ended_run
from tinsmith.domain.ops import LoraConfig
from tinsmith.domain.records import Checkpoint
from tinsmith.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Material:
    """What a checkpoint is made of."""

    base_model: str
    lora: LoraConfig
    adapter: Mapping[str, NDArray[np.generic]]
    adapter_config: Mapping[str, Any]
    optimizer: Mapping[str, NDArray[np.generic]] | None


def adopt(
    config: Config, material: Material, *, owner: str, name: str, how: str
) -> CheckpointAddress:
    """Enter a training checkpoint under a run of its own, which takes no work.

    Raises:
        StorageError: the disk refused; nothing is left behind.
    """
    lora = material.lora
    run, address = ended_run(owner, material.base_model, lora, CheckpointKind.TRAINING, name)
    store = CheckpointStore(config.home / "checkpoints")
    with store.unswept():
        written = store.write(
            address,
            adapter=material.adapter,
            adapter_config=material.adapter_config,
            optimizer=material.optimizer,
            details={
                "base_model": material.base_model,
                "rank": lora.rank,
                "train_attn": lora.train_attn,
                "train_mlp": lora.train_mlp,
                "train_unembed": lora.train_unembed,
            },
        )
        row = Checkpoint(
            address=address,
            owner=owner,
            base_model=material.base_model,
            lora=lora,
            created_at=run.created_at,
            size_bytes=written.size_bytes,
            digest=written.digest,
        )
        try:
            with closing(Ledger.open(config.ledger)) as ledger:
                ledger.adopt(run, row, how=how)
        except BaseException:
            store.delete(address)
            raise
    return address
