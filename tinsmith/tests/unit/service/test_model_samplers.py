"""Sampling by name, and tokens on their way."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from tinsmith.domain.errors import InvalidInputError, NotFoundError
from tinsmith.domain.ops import Sample, SamplingParams
from tinsmith.service.streams import FreshToken, Streams

TINY, OTHER = "org/tiny", "org/other"
VOCAB_SIZE = 100
SAMPLE = Sample(np.array([1, 2], np.int32), SamplingParams(max_tokens=2))


def saved_sampler(house, *, name: str = "a", **changes) -> str:
    run_id = house.run()
    request_id = house.service.runs.save_for_sampler(house.anna, run_id, 1, name=name)
    return str(house.execute_save(request_id, **changes))


def test_base_models_and_own_samplers_are_listed(house):
    address = saved_sampler(house)
    house.saved(house.run(), "training-state")
    samplers = house.service.model_samplers
    assert [one.name for one in samplers.list(house.anna)] == [TINY, OTHER, address]
    assert [one.name for one in samplers.list(house.boris)] == [TINY, OTHER]


def test_what_is_another_callers_looks_like_what_is_not_there(house):
    address = saved_sampler(house)
    samplers = house.service.model_samplers
    assert samplers.find(house.anna, address).base.name == TINY
    messages = []
    for name in (address, address + "x"):
        with pytest.raises(NotFoundError) as caught:
            samplers.find(house.boris, name)
        messages.append(str(caught.value).replace(name, ""))
    assert messages[0] == messages[1]


def test_a_published_sampler_answers_everybody(house):
    address = saved_sampler(house, is_public=True)
    samplers = house.service.model_samplers
    model = samplers.find(house.boris, address)
    [request_id] = samplers.submit(house.boris, model, [SAMPLE], seed=1)
    [record] = [one for one in house.ledger.pending(TINY) if one.request_id == request_id]
    assert record.owner == "boris"


def test_requests_of_a_caller_share_a_sampler_and_have_numbers_of_their_own(house):
    samplers = house.service.model_samplers
    model = samplers.find(house.anna, TINY)
    ids = samplers.submit(house.anna, model, [SAMPLE, SAMPLE], seed=None)
    ids += samplers.submit(house.anna, model, [SAMPLE], seed=None)
    assert len(set(ids)) == 3
    assert len({request_id.partition("#")[0] for request_id in ids}) == 1
    [other] = samplers.submit(house.boris, model, [SAMPLE], seed=None)
    assert other.partition("#")[0] != ids[0].partition("#")[0]


def test_samples_go_on_after_their_session_has_ended(house):
    samplers = house.service.model_samplers
    tiny, other = (samplers.find(house.anna, name) for name in (TINY, OTHER))
    samplers.submit(house.anna, tiny, [SAMPLE], seed=1)
    [session] = house.service.sessions.list(house.anna, limit=10, offset=0)
    house.service.sessions.finish(house.anna, session.session_id, "test")
    assert samplers.submit(house.anna, tiny, [SAMPLE], seed=1)
    assert samplers.submit(house.anna, other, [SAMPLE], seed=1)


def test_of_several_prompts_none_is_logged_if_one_is_wrong(house):
    samplers = house.service.model_samplers
    bad = Sample(np.array([VOCAB_SIZE], np.int32), SamplingParams())
    with pytest.raises(InvalidInputError, match=str(VOCAB_SIZE)):
        samplers.submit(house.anna, samplers.find(house.anna, TINY), [SAMPLE, bad], seed=1)
    assert not house.ledger.pending(TINY)


def test_tokens_told_in_a_thread_reach_their_stream_alone():
    streams = Streams()

    async def listen() -> list[list[FreshToken]]:
        with streams.open() as mine, streams.open() as other:
            told = [
                (mine.name, 0, 0, 7, -0.5, [(7, -0.5), (3, -1.0)]),
                (other.name, 0, 0, 8, -0.5, []),
                ("nobody", 0, 0, 9, -0.5, []),
                (mine.name, 1, 0, 9, -2.0, []),
            ]
            thread = threading.Thread(target=streams.deliver, args=(told,))
            thread.start()
            heard = [await mine.next(), await other.next()]
            thread.join()
        streams.deliver(told)  # after they have left
        return heard

    mine, other = asyncio.run(listen())
    assert [(one.number, one.token) for one in mine] == [(0, 7), (1, 9)]
    assert mine[0].top == ((7, -0.5), (3, -1.0))
    assert [one.token for one in other] == [8]
