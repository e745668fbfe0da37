from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tinsmith.config import Limits
from tinsmith.domain.errors import (
    BusyError,
    InvalidInputError,
    NotFoundError,
    SequenceReusedError,
)
from tinsmith.domain.ops import Sample, SamplingParams

MODEL = "org/tiny"


def sample(*tokens: int, **changes) -> Sample:
    return Sample(np.array(tokens or (1,), np.int32), SamplingParams(), **changes)


def sampler_of_base(house) -> str:
    session_id = house.session().session_id
    return house.service.samplers.create(house.anna, session_id, 0, base_model=MODEL).sampler_id


def test_a_sampler_of_a_base_model(house):
    session_id = house.session().session_id

    made = house.service.samplers.create(house.anna, session_id, 2, base_model=MODEL)

    assert made.sampler_id == f"{session_id}:sample:2"
    assert (made.base_model, made.checkpoint) == (MODEL, None)
    assert house.service.samplers.get(house.anna, made.sampler_id) == made
    assert house.service.samplers.create(house.anna, session_id, 2, base_model=MODEL) == made
    assert house.service.sessions.sampler_ids(house.anna, session_id) == [made.sampler_id]
    with pytest.raises(SequenceReusedError):
        house.service.samplers.create(house.anna, session_id, 2, base_model="org/other")


@pytest.mark.parametrize("kind", ["save_state", "save_for_sampler", "save_external"])
def test_any_kind_of_checkpoint_can_be_sampled_from(house, kind: str):
    run_id = house.run()
    save = getattr(house.service.runs, kind)
    address = house.execute_save(save(house.anna, run_id, 1, name="a"))
    session_id = house.session().session_id

    def create():
        return house.service.samplers.create(house.anna, session_id, 0, model_path=str(address))

    made = create()
    assert (made.base_model, made.checkpoint) == (MODEL, address)
    house.service.checkpoints.delete(house.anna, address)
    assert create() == made  # a repeat


def test_a_sampler_needs_something_it_may_read(house):
    address = house.saved(house.run())
    mine, theirs = house.session().session_id, house.session(house.boris).session_id
    create = house.service.samplers.create

    with pytest.raises(InvalidInputError, match="base_model or a model_path"):
        create(house.anna, mine, 0)
    with pytest.raises(InvalidInputError, match="org/unknown"):
        create(house.anna, mine, 0, base_model="org/unknown")
    with pytest.raises(InvalidInputError, match="not a checkpoint address"):
        create(house.anna, mine, 0, model_path="/etc/passwd")
    with pytest.raises(InvalidInputError, match="not of org/other"):
        create(house.anna, mine, 0, base_model="org/other", model_path=str(address))
    with pytest.raises(InvalidInputError, match="sampling_session_seq_id -1"):
        create(house.anna, mine, -1, base_model=MODEL)
    with pytest.raises(NotFoundError, match="there is no checkpoint"):
        create(house.boris, theirs, 0, model_path=str(address))
    with pytest.raises(NotFoundError, match="there is no session"):
        create(house.boris, mine, 0, base_model=MODEL)
    house.service.checkpoints.publish(house.anna, address)
    assert create(house.boris, theirs, 0, model_path=str(address)).checkpoint == address


def test_a_sample_gets_one_opaque_id_per_sequence(house):
    sampler_id = sampler_of_base(house)
    submit = house.service.samplers.submit
    house.rung.clear()

    request_id, sequence_ids = submit(
        house.anna, sampler_id, 191733668000000000, sample(num_samples=3), seed=None
    )
    again = submit(house.anna, sampler_id, 191733668000000000, sample(num_samples=3), seed=None)

    assert request_id == f"{sampler_id}#191733668000000000"
    assert len(set(sequence_ids)) == 3
    assert again == (request_id, sequence_ids)
    assert len(house.ledger.pending(MODEL)) == 1
    assert house.rung == [MODEL, MODEL]


def test_seeds_are_drawn_per_request_and_given_ones_kept(house):
    sampler_id = sampler_of_base(house)
    for seq_id, seed in ((0, None), (1, None), (2, 42)):
        house.service.samplers.submit(house.anna, sampler_id, seq_id, sample(), seed=seed)

    seeds = [record.op.params.seed for record in house.ledger.pending(MODEL)]

    assert len(set(seeds)) == 3
    assert seeds[2] == 42
    with pytest.raises(SequenceReusedError):
        house.service.samplers.submit(house.anna, sampler_id, 2, sample(), seed=43)


def test_bad_samples_are_refused_at_once(house):
    sampler_id = sampler_of_base(house)
    submit = house.service.samplers.submit

    with pytest.raises(InvalidInputError, match=r"prompt\[0\] is token id 100"):
        submit(house.anna, sampler_id, 0, sample(100), seed=None)
    with pytest.raises(InvalidInputError, match="seed -1"):
        submit(house.anna, sampler_id, 0, sample(), seed=-1)
    with pytest.raises(InvalidInputError, match="seq_id -1"):
        submit(house.anna, sampler_id, -1, sample(), seed=None)
    with pytest.raises(NotFoundError):
        submit(house.boris, sampler_id, 0, sample(), seed=None)
    with pytest.raises(NotFoundError):
        submit(house.anna, "no-sampler", 0, sample(), seed=None)
    assert house.ledger.pending(MODEL) == []


def test_beyond_the_backlog_a_sample_is_asked_to_wait(house):
    sampler_id = sampler_of_base(house)
    narrow = house.build(config=replace(house.config, limits=Limits(max_backlog_ops=1)))

    narrow.samplers.submit(house.anna, sampler_id, 0, sample(), seed=None)
    with pytest.raises(BusyError):
        narrow.samplers.submit(house.anna, sampler_id, 1, sample(), seed=None)
    narrow.close()
