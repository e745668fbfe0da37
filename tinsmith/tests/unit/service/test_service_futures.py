from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from tinsmith.domain.errors import NotFoundError, StorageError
from tinsmith.domain.ops import AdamParams, OptimStep, Sample, SamplingParams
from tinsmith.domain.outcomes import Sampled, StepDone, Succeeded
from tinsmith.service.futures import Futures, ResultGoneError

STEP = OptimStep(AdamParams())
DONE = Succeeded(StepDone({"grad_norm:mean": 2.0}))


@pytest.fixture
def request_id(house) -> str:
    return house.service.runs.submit(house.anna, house.run(), 1, STEP)


async def until_waiting(futures: Futures, number: int) -> None:
    async with asyncio.timeout(10):
        while futures.num_waiting() != number:
            await asyncio.sleep(0.001)


def is_done(outcome: object) -> bool:
    return isinstance(outcome, Succeeded) and outcome.result == DONE.result


def test_a_settled_op_is_answered_at_once_and_again(house, request_id: str):
    house.settle(request_id, DONE)

    for _ in range(2):
        assert is_done(asyncio.run(house.service.futures.wait(house.anna, request_id, 30)))


def test_nothing_yet_is_none_after_the_timeout(house, request_id: str):
    started = time.monotonic()

    assert asyncio.run(house.service.futures.wait(house.anna, request_id, 0.05)) is None

    assert time.monotonic() - started >= 0.05
    assert house.service.futures.num_waiting() == 0


def test_unknown_and_foreign_requests_look_the_same(house, request_id: str):
    with pytest.raises(NotFoundError) as foreign:
        asyncio.run(house.service.futures.wait(house.boris, request_id, 30))
    with pytest.raises(NotFoundError) as missing:
        asyncio.run(house.service.futures.wait(house.boris, "x:train:0#1", 30))

    assert str(foreign.value).replace(request_id, "x:train:0#1") == str(missing.value)
    assert house.service.futures.num_waiting() == 0


def test_a_swept_sample_is_gone_rather_than_unknown(house):
    session_id = house.session().session_id
    sampler = house.service.samplers.create(house.anna, session_id, 0, base_model="org/tiny")
    sample = Sample(np.array([1], np.int32), SamplingParams())
    id_, _ = house.service.samplers.submit(house.anna, sampler.sampler_id, 0, sample, seed=None)
    house.settle(id_, Succeeded(Sampled(())))
    house.ledger.sweep(datetime.now(UTC) + timedelta(seconds=1))

    with pytest.raises(ResultGoneError):
        asyncio.run(house.service.futures.wait(house.anna, id_, 30))


def test_a_ring_from_another_thread_wakes_every_waiter(house, request_id: str):
    futures = house.service.futures

    async def wait_for_it() -> list[object]:
        waits = [asyncio.create_task(futures.wait(house.anna, request_id, 30)) for _ in range(5)]
        await until_waiting(futures, 5)

        def settle_and_ring() -> None:
            house.settle(request_id, DONE)
            futures.wake([request_id, "nobody-waits#1"])

        threading.Thread(target=settle_and_ring).start()
        return await asyncio.gather(*waits)

    started = time.monotonic()
    assert all(is_done(outcome) for outcome in asyncio.run(wait_for_it()))
    assert time.monotonic() - started < 10
    assert futures.num_waiting() == 0


def test_a_ring_before_the_outcome_does_no_harm(house, request_id: str):
    futures = house.service.futures

    async def wait_for_it() -> object:
        waiting = asyncio.create_task(futures.wait(house.anna, request_id, 30))
        await until_waiting(futures, 1)
        futures.wake([request_id])
        await asyncio.sleep(0.05)
        assert not waiting.done()
        house.settle(request_id, DONE)
        futures.wake([request_id])
        return await waiting

    assert is_done(asyncio.run(wait_for_it()))


def test_no_ring_is_lost_between_looking_and_waiting(house, request_id: str, monkeypatch):
    """The outcome comes, and is rung for, just after the poll has looked and found none."""
    futures = house.service.futures
    look = house.ledger.op_status

    def look_then_settle(id_: str):
        status = look(id_)
        house.settle(id_, DONE)
        futures.wake([id_])
        time.sleep(0.2)  # the ring is dealt with before the poll goes on
        return status

    monkeypatch.setattr(house.ledger, "op_status", look_then_settle)

    assert is_done(asyncio.run(futures.wait(house.anna, request_id, 5)))


def test_a_waiter_that_leaves_is_forgotten_and_the_others_stay(house, request_id: str):
    futures = house.service.futures

    async def one_leaves() -> object:
        leaving = asyncio.create_task(futures.wait(house.anna, request_id, 30))
        staying = asyncio.create_task(futures.wait(house.anna, request_id, 30))
        await until_waiting(futures, 2)
        leaving.cancel()
        await until_waiting(futures, 1)
        with pytest.raises(asyncio.CancelledError):
            await leaving
        house.settle(request_id, DONE)
        futures.wake([request_id])
        return await staying

    assert is_done(asyncio.run(one_leaves()))
    assert futures.num_waiting() == 0


def test_waiters_of_a_loop_that_has_closed_do_not_disturb(house, request_id: str):
    futures = house.service.futures
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(futures.wait(house.anna, request_id, 30))
    loop.run_until_complete(until_waiting(futures, 1))
    house.settle(request_id, DONE)

    loop.run_until_complete(loop.shutdown_default_executor())
    abandoned.cancel()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    futures.wake([request_id])

    assert is_done(asyncio.run(futures.wait(house.anna, request_id, 30)))


def test_trouble_with_the_ledger_leaves_the_reader_alive(house, monkeypatch, caplog):
    """One query fails; the next ring is served all the same."""
    run_id = house.run()
    futures = house.service.futures
    ids = [house.service.runs.submit(house.anna, run_id, n, STEP) for n in (1, 2)]
    read = house.ledger.outcomes
    broken = [True]

    def outcomes(request_ids):
        if broken.pop():
            broken.append(False)
            raise StorageError("disk on fire")
        broken.append(False)
        return read(request_ids)

    monkeypatch.setattr(house.ledger, "outcomes", outcomes)

    async def wait_for_both() -> list[object]:
        waits = [asyncio.create_task(futures.wait(house.anna, id_, 30)) for id_ in ids]
        await until_waiting(futures, 2)
        for id_ in ids:
            house.settle(id_, DONE)
        futures.wake([ids[0]])
        await asyncio.sleep(0.05)
        futures.wake(ids)
        return await asyncio.gather(*waits)

    assert all(is_done(outcome) for outcome in asyncio.run(wait_for_both()))


def test_a_ring_after_closing_is_ignored(house, request_id: str):
    futures = house.build().futures
    futures.close()

    futures.wake([request_id])
    assert asyncio.run(futures.wait(house.anna, request_id, 0.01)) is None
