"""Everything that the server writes, without server and torch: the ledger and the stores of files,
used as front and engine use them, on a disk that faults.c makes fail.

    LD_PRELOAD=faults.so FAULTS_ROOT=FOLDER python storage_workload.py FOLDER all
        fails each call in each way; prints {"calls": ..., "cases": ..., "failed": ..., "refused"}
    ... some
        fails each call in one way, the next one in the next
    ... power
        loses at each call what is not synced; prints {"calls": ..., "cuts": ...}

What is not as it should be ends the program with an exception that names the case.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from durable_image import DurableImage
from tinsmith.checkpoints.store import CheckpointStore, WrittenCheckpoint
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind, run_id_of
from tinsmith.domain.adopted_runs import COPIED, ended_run
from tinsmith.domain.errors import StorageError
from tinsmith.domain.ops import AdamParams, CreateRun, LoraConfig, OptimStep, SaveState
from tinsmith.domain.outcomes import RunCreated, Saved, StepDone, Succeeded
from tinsmith.domain.records import Checkpoint, Run
from tinsmith.ledger.codec import encode
from tinsmith.ledger.ledger import Ledger

T = TypeVar("T")
MODEL, OWNER = "org/tiny", "anna"
LORA = LoraConfig(rank=2, seed=0)
ATTEMPTS = 3
"""How often the same thing is asked for, as a client and the engine ask again."""
ONCE, FOR_GOOD = 1, 10**6
WAYS = (
    ("eio", ONCE),
    ("eio", FOR_GOOD),
    ("enospc", ONCE),
    ("enospc", FOR_GOOD),
    ("short", ONCE),
    ("torn", ONCE),
)

_library = ctypes.CDLL(None)
_library.faults_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_long]
_library.faults_count.restype = ctypes.c_long
_library.faults_failed.restype = ctypes.c_long


class Workload:
    """One life of a home folder, and what was promised to somebody in it."""

    def __init__(self, home: Path, *, fails_once: bool = False) -> None:
        """`fails_once`: the disk is well again after a call has failed."""
        self.home = home
        self._fails_once = fails_once
        self.outcomes: dict[str, bytes] = {}
        """Acknowledged: by request_id."""
        self.logged: list[str] = []
        """Acknowledged: request_ids."""
        self.saved: dict[CheckpointAddress, float] = {}
        """Acknowledged: what the checkpoint holds."""
        self.attempted: dict[CheckpointAddress, float] = {}
        """What it may hold instead: the save was under way."""
        self.deleted: set[CheckpointAddress] = set()
        self._seq_id = 0
        self._ledger: Ledger | None = None

    def run(self) -> None:
        """Raises StorageError where the disk refuses for good."""
        ledger = self._ledger = again(lambda: Ledger.open(self.home / "ledger.db"))
        store = again(lambda: CheckpointStore(self.home / "checkpoints"))
        session = again(lambda: ledger.create_session(OWNER, idempotency_key="once"))
        epoch = again(lambda: ledger.acquire_lease(MODEL, "engine"))
        now = datetime.now(UTC)
        run_id = run_id_of(session.session_id, 0)
        run = Run(run_id, session.session_id, OWNER, MODEL, LORA, now, now)
        creation = again(lambda: ledger.create_run(run, CreateRun(MODEL, LORA)))
        self.logged.append(creation)
        self._settle(ledger, epoch, creation, Succeeded(RunCreated(run_id)))
        for value in (1.0, 2.0):
            self._append(ledger, epoch, run_id)
            self._save(ledger, store, epoch, run_id, "latest", value)
        self._save(ledger, store, epoch, run_id, "doomed", 3.0)
        self._copy(ledger, store, CheckpointAddress(run_id, CheckpointKind.TRAINING, "latest"))
        self._delete(ledger, store, CheckpointAddress(run_id, CheckpointKind.TRAINING, "doomed"))
        self._append(ledger, epoch, run_id)

    def close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()

    def copy_of_promises(self, home: Path) -> Workload:
        """What had been promised by now, to be checked on another disk."""
        other = Workload(home)
        for name in ("outcomes", "logged", "saved", "attempted", "deleted"):
            setattr(other, name, copy(getattr(self, name)))
        return other

    def check(self) -> None:
        """The disk is well again and a server starts: everything that was acknowledged is there,
        and every checkpoint in the catalogue is whole."""
        ledger = Ledger.open(self.home / "ledger.db")
        try:
            store = CheckpointStore(self.home / "checkpoints")
            store.sweep(lambda address: ledger.checkpoint(address) is not None)
            for request_id in self.logged:
                assert ledger.op_status(request_id) is not None, f"{request_id} is lost"
            found = {id_: encode(one) for id_, one in ledger.outcomes(self.outcomes).items()}
            assert found == self.outcomes, "outcomes are lost or others"
            rows, _ = ledger.checkpoints()
            listed = {row.address for row in rows}
            missing = self.saved.keys() - self.deleted - listed
            assert not missing, f"lost from the catalogue: {missing}"
            for address in listed:
                allowed = {self.saved.get(address), self.attempted.get(address)}
                held = content_of(store, address)
                assert held in allowed, f"{address} holds {held}, not one of {allowed}"
        finally:
            ledger.close()

    def _append(self, ledger: Ledger, epoch: int, run_id: str) -> None:
        self._seq_id += 1
        op, seq_id = OptimStep(AdamParams()), self._seq_id
        request_id = again(lambda: ledger.append(run_id, seq_id, op, owner=OWNER, base_model=MODEL))
        self.logged.append(request_id)
        self._settle(ledger, epoch, request_id, Succeeded(StepDone({"norm": 0.5})))

    def _settle(
        self,
        ledger: Ledger,
        epoch: int,
        request_id: str,
        outcome: Succeeded,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        again(lambda: ledger.settle(request_id, outcome, lease_epoch=epoch, checkpoint=checkpoint))
        self.outcomes[request_id] = encode(outcome)

    def _save(
        self,
        ledger: Ledger,
        store: CheckpointStore,
        epoch: int,
        run_id: str,
        name: str,
        value: float,
    ) -> None:
        self._seq_id += 1
        address, seq_id = CheckpointAddress(run_id, CheckpointKind.TRAINING, name), self._seq_id
        op = SaveState(address, overwrite=True)
        request_id = again(lambda: ledger.append(run_id, seq_id, op, owner=OWNER, base_model=MODEL))
        self.logged.append(request_id)
        arrays = {"base_model.model.q.lora_A.weight": np.full((4, 3), value, np.float32)}
        self.attempted[address] = value

        def write() -> WrittenCheckpoint:
            try:
                return store.write(
                    address,
                    adapter=arrays,
                    adapter_config={"r": 2},
                    optimizer=arrays,
                    overwrite=True,
                )
            except StorageError:
                if self._fails_once and address in self.saved:
                    held = content_of(store, address)
                    assert held == self.saved[address], "a refused save changed the one before"
                raise

        written = again(write)
        row = Checkpoint(
            address, OWNER, MODEL, LORA, datetime.now(UTC), written.size_bytes, written.digest
        )
        self._settle(ledger, epoch, request_id, Succeeded(Saved(address)), row)
        self.saved[address] = value

    def _copy(self, ledger: Ledger, store: CheckpointStore, source: CheckpointAddress) -> None:
        run, address = ended_run(OWNER, MODEL, LORA, source.kind, source.name)
        self.attempted[address] = self.saved[source]
        written = again(lambda: store.copy(source, address))
        row = Checkpoint(
            address, OWNER, MODEL, LORA, datetime.now(UTC), written.size_bytes, written.digest
        )
        again(lambda: ledger.adopt(run, row, how=COPIED))
        self.saved[address] = self.saved[source]

    def _delete(self, ledger: Ledger, store: CheckpointStore, address: CheckpointAddress) -> None:
        self.deleted.add(address)
        again(lambda: ledger.delete_checkpoint(address))
        again(lambda: store.delete(address))


def again(call: Callable[[], T]) -> T:
    """Ask up to three times; anything but a StorageError is a bug."""
    for _ in range(ATTEMPTS - 1):
        with suppress(StorageError):
            return call()
    return call()


def content_of(store: CheckpointStore, address: CheckpointAddress) -> float:
    """The one value of a checkpoint's arrays, all of which are compared with its manifest."""
    arrays = {**store.read_adapter(address)[0], **store.read_optimizer(address)}
    (value,) = np.unique(np.stack(list(arrays.values())))
    return float(value)


def sweep(folder: Path, *, in_every_way: bool) -> dict[str, Any]:
    """Every call fails, once or from then on, and everything promised is there afterwards."""
    calls = count_calls(folder / "undisturbed")
    cases = [
        (kind, first, count)
        for first in range(calls)
        for kind, count in (WAYS if in_every_way else [WAYS[first % len(WAYS)]])
    ]
    num_refused = num_failed = 0
    for number, (kind, first, count) in enumerate(cases):
        workload = Workload(folder / str(number), fails_once=count == ONCE)
        workload.home.mkdir()
        arm(kind, first, count)
        try:
            workload.run()
        except StorageError:
            num_refused += 1
        finally:
            num_failed += _library.faults_failed()
            workload.close()
            arm()
        try:
            workload.check()
        except BaseException as error:
            error.add_note(f"call {first} of {calls}, {kind}, {count} times")
            raise
        shutil.rmtree(workload.home)
    return {"calls": calls, "cases": len(cases), "failed": num_failed, "refused": num_refused}


def power(folder: Path) -> dict[str, Any]:
    """The power goes before each call that writes: only what was synced is there afterwards."""
    home = folder / "home"
    home.mkdir()
    image, workload = DurableImage(home), Workload(home)
    cuts: list[tuple[Workload, str]] = []

    def told(call: bytes, path: bytes, other: bytes | None) -> None:
        for early in (False, True):
            cut = workload.copy_of_promises(folder.with_name(f"{folder.name}-{len(cuts)}"))
            image.restore(cut.home, early=early)
            cuts.append((cut, f"before {call.decode()} of {path.decode()}, names early: {early}"))
        if call == b"fsync":
            image.note_sync(Path(path.decode()))

    hook = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p)(told)
    arm()
    _library.faults_hook(hook)
    workload.run()
    workload.close()
    calls = _library.faults_count()
    _library.faults_hook(None)
    for number, (cut, where) in enumerate(cuts):
        try:
            cut.check()
        except BaseException as error:
            error.add_note(f"cut {number} of {len(cuts)}, {where}")
            raise
        shutil.rmtree(cut.home)
    return {"calls": calls, "cuts": len(cuts)}


def count_calls(home: Path) -> int:
    home.mkdir()
    workload = Workload(home)
    arm()
    workload.run()
    workload.close()
    calls = _library.faults_count()
    workload.check()
    return calls


def arm(kind: str = "none", first: int = 0, count: int = 0) -> None:
    _library.faults_arm(kind.encode(), first, count)


if __name__ == "__main__":
    folder, what = Path(sys.argv[1]), sys.argv[2]
    print(
        json.dumps(power(folder) if what == "power" else sweep(folder, in_every_way=what == "all"))
    )
