"""Runs that come back after their engine has died, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from running_engine import LORA, Engine, batch, load_tiny_model, step
from tinsmith.config import Engine as EngineSettings
from tinsmith.config import Recovery
from tinsmith.domain.addresses import CheckpointAddress, CheckpointKind
from tinsmith.domain.ops import LoadState, OptimStep, SaveState
from tinsmith.domain.outcomes import Failed, Outcome, Succeeded
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.snapshots import PRUNE_EVERY
from tinsmith.ledger.codec import encode

OFTEN = Recovery(max_replay_s=1e-6)
"""A snapshot as often as the disk keeps up."""
NEVER = Recovery(max_replay_s=1e6)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_tiny_model(tmp_path_factory.mktemp("tiny"))


def address(engine: Engine, name: str) -> CheckpointAddress:
    return CheckpointAddress(engine.run_id, CheckpointKind.TRAINING, name)


def saved(engine: Engine, seq_id: int, name: str = "end") -> dict[str, np.ndarray]:
    """Weights and moments, as files hold them."""
    outcome = engine.submit(seq_id, SaveState(address(engine, name)))
    assert isinstance(outcome, Succeeded), outcome
    adapter, _ = engine.store.read_adapter(address(engine, name))
    return {**adapter, **engine.store.read_optimizer(address(engine, name))}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.tobytes() == other[name].tobytes(), name


STORY = (
    batch(1),
    step(),
    batch(2),
    batch(3),
    step(1e-2),
    batch(4),
    step(-1.0),  # refused: it ends its window
    batch(5),
    batch(6),
    step(),
)
"""seq_ids 1 to 10."""


def tell(engine: Engine, first: int, last: int) -> list[Outcome]:
    return [engine.submit(seq, STORY[seq - 1]) for seq in range(first, last + 1)]


def encoded(outcomes: list[Outcome]) -> list[bytes]:
    return [encode(outcome) for outcome in outcomes]


@pytest.fixture(scope="module")
def undisturbed(base: BaseModel, tmp_path_factory: pytest.TempPathFactory):
    engine = Engine(tmp_path_factory.mktemp("undisturbed"), base)
    outcomes = encoded(tell(engine, 1, len(STORY)))
    state = saved(engine, len(STORY) + 1)
    engine.stop()
    return outcomes, state


@pytest.mark.parametrize("recovery", [OFTEN, NEVER], ids=["snapshots", "log alone"])
@pytest.mark.parametrize("crash_after", range(1, len(STORY) + 1))
def test_a_run_goes_on_after_a_crash_as_if_nothing_had_been(
    base: BaseModel, tmp_path: Path, undisturbed, recovery: Recovery, crash_after: int
):
    engine = Engine(tmp_path, base, recovery=recovery)
    before = tell(engine, 1, crash_after)
    engine.crash()

    again = Engine(tmp_path, base, recovery=recovery, session=engine.session)
    after = tell(again, crash_after + 1, len(STORY))
    state = saved(again, len(STORY) + 1)
    run = again.ledger.run(again.run_id)
    again.stop()

    assert encoded([*before, *after]) == undisturbed[0]
    assert_same(state, undisturbed[1])
    assert run is not None and run.inexact is None and not run.is_corrupted


def test_many_crashes_in_a_row_and_ops_that_waited_through_them(
    base: BaseModel, tmp_path: Path, undisturbed
):
    engine = Engine(tmp_path, base, recovery=OFTEN)
    for seq in range(1, len(STORY) + 1):
        request_id = engine.append(seq, STORY[seq - 1], engine.run_id)
        engine.crash()
        engine = Engine(tmp_path, base, recovery=OFTEN, session=engine.session)
        assert encode(engine.wait(request_id)) == undisturbed[0][seq - 1]
    state = saved(engine, len(STORY) + 1)
    engine.stop()

    assert_same(state, undisturbed[1])


def test_an_engine_that_is_told_to_stop_leaves_nothing_to_repeat(base: BaseModel, tmp_path: Path):
    engine = Engine(tmp_path, base, recovery=NEVER)
    tell(engine, 1, 9)
    engine.stop()

    again = Engine(tmp_path, base, session=engine.session)
    newest = again.ledger.snapshots(again.run_id)[0]
    again.stop()

    assert newest.seq_id == 9 and newest.num_steps == 2
    assert newest.notes["window_start"] == 7


def test_a_load_survives_the_deletion_of_its_checkpoint(base: BaseModel, tmp_path: Path):
    engine = Engine(tmp_path, base, recovery=NEVER)
    tell(engine, 1, 2)
    kept = saved(engine, 3, "kept")
    engine.submit(4, batch(7))
    engine.submit(5, step())
    assert isinstance(engine.submit(6, LoadState(address(engine, "kept"), True)), Succeeded)
    engine.ledger.delete_checkpoint(address(engine, "kept"))
    engine.store.delete(address(engine, "kept"))
    engine.crash()

    again = Engine(tmp_path, base, session=engine.session)
    assert_same(saved(again, 7), kept)
    again.stop()


def test_a_damaged_snapshot_is_passed_over(base: BaseModel, tmp_path: Path, undisturbed):
    engine = Engine(tmp_path, base, recovery=OFTEN)
    tell(engine, 1, 5)
    engine.stop()
    engine = Engine(tmp_path, base, session=engine.session)
    newest = engine.ledger.snapshots(engine.run_id)[0]
    file = tmp_path / "snapshots" / newest.file
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    tell(engine, 6, len(STORY))
    state = saved(engine, len(STORY) + 1)
    run = engine.ledger.run(engine.run_id)
    engine.stop()

    assert_same(state, undisturbed[1])
    assert run is not None and run.inexact is None


def test_other_settings_after_a_restart_do_not_change_what_is_repeated(
    base: BaseModel, tmp_path: Path
):
    states = []
    for after in (EngineSettings(), EngineSettings(micro_batch_tokens=9)):
        home = tmp_path / str(after.micro_batch_tokens)
        engine = Engine(home, base, EngineSettings(micro_batch_tokens=64), recovery=NEVER)
        data = tuple(datum for seed in range(6) for datum in batch(seed).data)
        op = type(batch())(data, "cross_entropy")
        engine.submit(1, op)
        engine.submit(2, step())
        engine.crash()
        again = Engine(home, base, after, session=engine.session)
        states.append(saved(again, 3))
        run = again.ledger.run(again.run_id)
        assert run is not None and run.inexact is None
        again.stop()

    assert_same(*states)


def test_a_replay_that_differs_is_told(base: BaseModel, tmp_path: Path):
    engine = Engine(tmp_path, base, recovery=NEVER)
    tell(engine, 1, 2)
    engine.crash()

    other = load_tiny_model(tmp_path / "other")
    next(iter(other.model.parameters())).data.mul_(1.5)  # another machine's arithmetic, exaggerated
    again = Engine(tmp_path, other, session=engine.session)
    outcome = again.submit(3, STORY[2])
    run = again.ledger.run(again.run_id)
    again.stop()

    assert isinstance(outcome, Succeeded)
    assert run is not None and run.inexact is not None
    assert "2 of 2 requests, the first of them number 1" in run.inexact


def test_a_run_whose_log_is_gone_is_corrupted_and_says_how_to_go_on(
    base: BaseModel, tmp_path: Path
):
    engine = Engine(tmp_path, base, recovery=NEVER)
    tell(engine, 1, 2)
    engine.ledger.drop_snapshots(engine.run_id, [], payloads_up_to=2)
    engine.crash()

    again = Engine(tmp_path, base, session=engine.session)
    outcomes = [again.submit(3, STORY[2]), again.submit(4, OptimStep(STORY[1].adam))]
    run = again.ledger.run(again.run_id)
    again.stop()

    for outcome in outcomes:
        assert isinstance(outcome, Failed)
        assert "last checkpoint" in outcome.message
    assert run is not None and run.is_corrupted


def test_runs_that_do_not_fit_side_by_side_come_back_one_after_the_other(
    base: BaseModel, tmp_path: Path
):
    small = EngineSettings(resident_bytes=1)
    engine = Engine(tmp_path, base, small, recovery=NEVER)
    assert isinstance(engine.create(1, LORA), Succeeded)
    second = f"{engine.session}:train:1"
    for seq, op in ((1, batch(1)), (2, step())):
        first, other = (engine.submit(seq, op), engine.submit(seq, op, second))
        assert encode(first) == encode(other)
    engine.crash()

    again = Engine(tmp_path, base, small, recovery=NEVER, session=engine.session)
    ids = [again.append(3, batch(2), run) for run in (again.run_id, second)]
    outcomes = [encode(again.wait(one)) for one in ids]
    again.stop()

    assert outcomes[0] == outcomes[1]


def test_what_a_long_run_leaves_on_disk_is_bounded_and_enough(base: BaseModel, tmp_path: Path):
    small = Recovery(max_replay_s=1e-6, keep_snapshots=2, history_bytes=0)
    engine = Engine(tmp_path, base, recovery=small)
    for number in range(40):
        engine.submit(2 * number + 1, batch(number))
        engine.submit(2 * number + 2, step())
    state = saved(engine, 81)
    engine.crash()

    again = Engine(tmp_path, base, recovery=small, session=engine.session)
    restored = saved(again, 82, "again")
    kept = again.ledger.snapshots(again.run_id)
    payloads = again.ledger.payload_sizes(again.run_id)
    files = list((tmp_path / "snapshots").rglob("*.safetensors"))
    again.stop()

    assert_same(state, restored)
    assert len(kept) <= 2 + PRUNE_EVERY
    assert len(files) == len(kept)
    assert 0 not in payloads and min(payloads) > 20
