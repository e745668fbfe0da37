"""Where the states of runs are: on the device, in host memory or in files.

A run is put aside whole, the least recently used first, and comes back bit for bit with its next
op. Device memory is reckoned by what a run will need, gradient included, so that none grows out of
its place between two ops.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tinsmith.config import Engine as EngineSettings
from tinsmith.domain.errors import ServiceError, StorageError
from tinsmith.domain.ops import LoraConfig
from tinsmith.engine.adapter import AdapterLayout
from tinsmith.engine.aside_files import AsideFile, AsideFiles, DamagedFileError
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.free_memory import free_bytes, free_host_bytes
from tinsmith.engine.project_quotas import ProjectQuotas
from tinsmith.engine.training_state import StateNotes, TrainingState
from tinsmith.telemetry import event

SHARE_OF_FREE = 4
"""Unless the settings say otherwise, runs get one part in so many of what is free at the start."""
_BYTES_PER_PARAMETER = 4 * 4
"""Weights, gradient and two moments, fp32."""


class NoRoomYetError(ServiceError):
    """All the room is taken by runs that are in the middle of an op; ask again after their turn."""


@dataclass(frozen=True, slots=True)
class _Aside:
    """A run that is not on the device. Its layout, large beside the rest, is made anew."""

    lora: LoraConfig
    num_parameters: int
    notes: StateNotes
    kept: AsideFile | dict[str, Tensor]
    """A file, or vectors in host memory."""
    host_bytes: int
    """Host memory that it takes; 0 for a file."""


class Residency:
    """The states of all runs of one engine, within a budget of device and of host memory."""

    def __init__(
        self,
        base: BaseModel,
        folder: Path,
        *,
        resident_bytes: int,
        host_bytes: int,
        quotas: ProjectQuotas | None = None,
    ) -> None:
        """
        Args:
            base: whose adapters the runs train, on the device that is meant here.
            folder: for files; this engine's own, and emptied.
            resident_bytes: device memory for runs. A run that is larger gets it all to itself.
            host_bytes: host memory for runs put aside; 0 sends them to files at once.
            quotas: how many runs of one project may be on the device; None: as many as fit.
        """
        self._base = base
        self._files = AsideFiles(folder)
        self._resident_budget = resident_bytes
        self._host_budget = host_bytes
        self.quotas = quotas
        self._resident: OrderedDict[str, TrainingState] = OrderedDict()
        """Least recently used first."""
        self._aside: OrderedDict[str, _Aside] = OrderedDict()
        """In the order in which they were put aside."""
        self._held: set[str] = set()

    @classmethod
    def planned(
        cls,
        base: BaseModel,
        folder: Path,
        settings: EngineSettings,
        quotas: ProjectQuotas | None = None,
    ) -> Residency:
        """Budgets as set, or shares of what is free now, beside the base model."""
        device = base.device
        resident_bytes = settings.resident_bytes or free_bytes(device) // SHARE_OF_FREE
        host_bytes = 0
        if device.type != "cpu":
            host_bytes = settings.host_bytes or free_host_bytes() // SHARE_OF_FREE
        event("room_for_runs", resident_bytes=resident_bytes, host_bytes=host_bytes)
        return cls(
            base, folder, resident_bytes=resident_bytes, host_bytes=host_bytes, quotas=quotas
        )

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._resident or run_id in self._aside

    def is_resident(self, run_id: str) -> bool:
        """Whether the run is on the device now."""
        return run_id in self._resident

    @property
    def resident_bytes(self) -> int:
        """Device memory that runs take now."""
        return sum(
            vector.nbytes for state in self._resident.values() for vector in state.vectors.values()
        )

    @property
    def host_bytes(self) -> int:
        """Host memory that runs put aside take now."""
        return sum(aside.host_bytes for aside in self._aside.values())

    def lora(self, run_id: str) -> LoraConfig:
        """A run's settings, wherever the run is. KeyError if there is none."""
        state = self._resident.get(run_id)
        return self._aside[run_id].lora if state is None else state.layout.lora

    def add(self, run_id: str, num_parameters: int, make: Callable[[], TrainingState]) -> None:
        """Make room for a run, make it, and take it in; it replaces an earlier state of the run.

        Raises:
            NoRoomYetError, StorageError: as `take`. After these, and after what `make` raises, the
                run is as it was before.
        """
        self._make_room(num_parameters, run_id)
        state = make()
        self.drop(run_id)
        self._resident[run_id] = state

    def take(self, run_id: str) -> TrainingState:
        """A run's state on the device. It stays there until the next call of `add` or `take`, or,
        between `hold` and `let_go`, beyond it.

        Raises:
            KeyError: there is no such run.
            NoRoomYetError: see there; nothing has changed.
            StorageError: the disk refused what has to leave for it, or its file could not be
                read this time. No run is lost.
            DamagedFileError: the run was put aside and is lost.
        """
        if run_id not in self._resident:
            self._bring_back(run_id)
        self._resident.move_to_end(run_id)
        return self._resident[run_id]

    def hold(self, run_id: str) -> None:
        """Keep a run on the device: something under way refers to its state."""
        self._held.add(run_id)

    def let_go(self, run_id: str) -> None:
        self._held.discard(run_id)

    def drop(self, run_id: str) -> None:
        """Forget a run wherever it is. Dropping what is not there is no error."""
        self._held.discard(run_id)
        self._resident.pop(run_id, None)
        self._forget_aside(run_id)

    def close(self) -> None:
        """Remove the files; the runs in them are gone."""
        self._files.clear()

    def _bring_back(self, run_id: str) -> None:
        aside = self._aside[run_id]
        self._make_room(aside.num_parameters, run_id)
        started = time.monotonic()
        if isinstance(aside.kept, AsideFile):
            try:
                arrays = self._files.read(aside.kept)
            except DamagedFileError:
                self.drop(run_id)
                raise
            vectors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        else:
            vectors = aside.kept
        on_device = {name: vector.to(self._base.device) for name, vector in vectors.items()}
        layout = AdapterLayout(self._base, aside.lora)
        self._resident[run_id] = TrainingState.restored(layout, on_device, aside.notes)
        self._forget_aside(run_id)
        event("run_brought_back", level=logging.DEBUG, run=run_id, ms=_ms_since(started))

    def _make_room(self, num_parameters: int, run_id: str) -> None:
        """Put other runs aside until `run_id` has room for so many parameters, and its project no
        more runs than it may."""
        for other in self._too_many_beside(run_id):
            self._put_aside(other, for_run=run_id)
        others = OrderedDict(
            (other, state.layout.size) for other, state in self._resident.items() if other != run_id
        )
        room = self._resident_budget // _BYTES_PER_PARAMETER - num_parameters
        while others and sum(others.values()) > room:
            oldest = next((other for other in others if other not in self._held), None)
            if oldest is None:
                raise NoRoomYetError(f"no room for run {run_id} beside those in the middle of ops")
            self._put_aside(oldest, for_run=run_id)
            del others[oldest]

    def _too_many_beside(self, run_id: str) -> list[str]:
        """Runs of the same project that have to leave for `run_id`, least recently used first."""
        if self.quotas is None:
            return []
        owner = self.quotas.owner(run_id)
        allowed = self.quotas.resident_adapters(owner)
        beside = [
            other
            for other in self._resident
            if other != run_id and self.quotas.owner(other) == owner
        ]
        surplus = len(beside) + 1 - allowed if allowed else 0
        free = [other for other in beside if other not in self._held]
        if surplus > len(free):
            raise NoRoomYetError(f"the project of run {run_id} has {allowed} in the middle of ops")
        return free[: max(surplus, 0)]

    def _put_aside(self, run_id: str, for_run: str) -> None:
        state, started = self._resident[run_id], time.monotonic()
        vectors = state.vectors
        size = sum(_bytes_in_host(vector) for vector in vectors.values())
        try:
            if self._has_host_room(size, for_run):
                copies = {name: _copied_to_host(vector) for name, vector in vectors.items()}
                kept, host_bytes = copies, size
            else:
                kept, host_bytes = self._written(run_id, vectors), 0
        except StorageError as error:
            event("cannot_put_aside", level=logging.WARNING, run=run_id, why=error)
            raise StorageError(
                f"there is no room for run {for_run}: {error}. Free space on the disk of the home "
                "folder, or release runs, then repeat; every run is as it was"
            ) from error
        layout = state.layout
        self._aside[run_id] = _Aside(layout.lora, layout.size, state.notes, kept, host_bytes)
        del self._resident[run_id]
        where = "host" if host_bytes else "file"
        event("run_put_aside", level=logging.DEBUG, run=run_id, to=where, ms=_ms_since(started))

    def _has_host_room(self, num_bytes: int, for_run: str) -> bool:
        """Whether so much fits into host memory, once those longest there have gone to files;
        `for_run` stays, because it is about to leave."""
        if num_bytes > self._host_budget:
            return False
        in_host = [run for run, aside in self._aside.items() if aside.host_bytes and run != for_run]
        while self.host_bytes + num_bytes > self._host_budget:
            if not in_host:
                return False
            oldest = in_host.pop(0)
            aside = self._aside[oldest]
            assert isinstance(aside.kept, dict)
            file = self._written(oldest, aside.kept)
            self._aside[oldest] = replace(aside, kept=file, host_bytes=0)
        return True

    def _written(self, run_id: str, vectors: dict[str, Tensor]) -> AsideFile:
        arrays = {name: vector.detach().cpu().numpy() for name, vector in vectors.items()}
        return self._files.write(run_id, arrays)

    def _forget_aside(self, run_id: str) -> None:
        aside = self._aside.pop(run_id, None)
        if aside is not None and isinstance(aside.kept, AsideFile):
            self._files.remove(aside.kept)


def _copied_to_host(vector: Tensor) -> Tensor:
    """Page-locked for CUDA, which else copies it twice, by way of a page-locked buffer."""
    copy = torch.empty(len(vector), dtype=vector.dtype, pin_memory=vector.device.type == "cuda")
    return copy.copy_(vector)


def _bytes_in_host(vector: Tensor) -> int:
    """What a copy takes there: torch rounds page-locked blocks up to a power of two."""
    if vector.device.type == "cuda":
        return 1 << (vector.nbytes - 1).bit_length()
    return vector.nbytes


def _ms_since(started: float) -> int:
    return round(1000 * (time.monotonic() - started))
