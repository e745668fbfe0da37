from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tinsmith.config import Limits, Quotas
from tinsmith.domain.datum import Datum
from tinsmith.domain.errors import BusyError, InvalidInputError
from tinsmith.domain.ops import AdamParams, ForwardBackward, OptimStep, Sample, SamplingParams
from tinsmith.domain.outcomes import Failed, FailureCategory, Sampled, Succeeded
from tinsmith.domain.records import Caller
from tinsmith.ledger.entries import Backlog
from tinsmith.service import quotas as service_quotas
from tinsmith.service.free_space import FreeSpace
from tinsmith.service.service import Service

MODEL = "org/tiny"
STEP = OptimStep(AdamParams())


def batch(*lengths: int) -> ForwardBackward:
    def datum(length: int) -> Datum:
        return Datum(
            np.ones(length, np.int32),
            {"target_tokens": np.ones(length, np.int64), "weights": np.ones(length, np.float32)},
        )

    return ForwardBackward(tuple(datum(length) for length in lengths), "cross_entropy")


def sample(length: int, max_tokens: int | None = None, num_samples: int = 1) -> Sample:
    params = SamplingParams(max_tokens=max_tokens)
    return Sample(np.ones(length, np.int32), params, num_samples)


@contextmanager
def service_with(house, **quotas: int) -> Iterator[Service]:
    service = house.build(config=replace(house.config, quotas=Quotas(**quotas)))
    yield service
    service.close()


def new_sampler(house) -> str:
    session_id = house.session().session_id
    return house.service.samplers.create(house.anna, session_id, 0, base_model=MODEL).sampler_id


def new_run(house, service: Service, rank: int = 4) -> str:
    session_id = house.session().session_id
    return service.runs.create(house.anna, session_id, 0, base_model=MODEL, rank=rank)


def why(house, request_id: str) -> str:
    outcome = house.outcome(request_id)
    assert isinstance(outcome, Failed)
    assert outcome.category is FailureCategory.USER
    return outcome.message


def test_a_rank_above_the_quota_is_refused_also_by_way_of_a_checkpoint(house):
    address = house.saved(house.run(rank=8))
    with service_with(house, rank=4) as service:
        with pytest.raises(InvalidInputError, match=r"rank 5 is above .* rank 4.*projects set"):
            new_run(house, service, rank=5)
        assert new_run(house, service, rank=4)
        with pytest.raises(InvalidInputError, match="rank 8"):
            service.runs.create_from_state(
                house.anna,
                house.session().session_id,
                0,
                path=str(address),
                with_optimizer=True,
            )


def test_live_runs_are_counted_by_project_and_repeats_are_not_new(house):
    session_id = house.session().session_id
    with service_with(house, live_runs=1) as service:

        def create(number: int = 0) -> str:
            return service.runs.create(house.anna, session_id, number, base_model=MODEL, rank=4)

        first = create()
        assert create() == first
        with pytest.raises(InvalidInputError, match=r"has 1 training runs .* live_runs 1"):
            create(1)
        boris = house.session(house.boris).session_id
        assert service.runs.create(house.boris, boris, 0, base_model=MODEL, rank=4)
        service.sessions.finish(house.anna, session_id, "success")
        assert new_run(house, service)


def test_too_large_a_batch_fails_in_its_place_and_says_which_quota(house):
    run_id = house.run()
    with service_with(house, request_tokens=12, request_datums=2, sequence_tokens=8) as service:

        def submit(seq_id: int, op: ForwardBackward) -> str:
            return service.runs.submit(house.anna, run_id, seq_id, op)

        assert house.outcome(submit(1, batch(8, 4))) is None
        assert "13 tokens" in why(house, submit(2, batch(7, 6)))
        assert "3 datums" in why(house, submit(3, batch(1, 1, 1)))
        assert "9 tokens, prompt and answer" in why(house, submit(4, batch(9)))
        assert house.outcome(submit(5, batch(1))) is None


def test_a_batch_that_would_take_more_than_five_minutes_of_tokens_is_refused(house):
    run_id = house.run()
    with service_with(house, tokens_per_minute=2) as service:
        assert "5 minutes" in why(house, service.runs.submit(house.anna, run_id, 1, batch(11)))
        assert house.outcome(service.runs.submit(house.anna, run_id, 2, batch(10))) is None


def test_a_sample_above_a_quota_is_refused_and_an_open_end_is_closed(house):
    sampler_id = new_sampler(house)
    with service_with(house, sequence_tokens=8, request_tokens=10) as service:

        def submit(seq_id: int, op: Sample) -> str:
            return service.samplers.submit(house.anna, sampler_id, seq_id, op, seed=1)[0]

        for op in (sample(4, max_tokens=5), sample(8), sample(4, max_tokens=4, num_samples=2)):
            with pytest.raises(InvalidInputError, match="quota"):
                submit(0, op)
        submit(0, sample(4))
        submit(1, sample(4, max_tokens=3))
        logged = [record.op.params.max_tokens for record in house.ledger.pending(MODEL)]
        assert logged == [4, 3]


def test_of_several_samples_none_is_logged_if_one_exceeds_a_quota(house):
    with service_with(house, sequence_tokens=8) as service:
        named = service.model_samplers.find(house.anna, MODEL)
        with pytest.raises(InvalidInputError, match="sequence_tokens"):
            service.model_samplers.submit(house.anna, named, [sample(1), sample(9)], seed=1)
        assert house.ledger.pending(MODEL) == []


def test_stored_bytes_stop_saves_and_copies_until_something_is_deleted(house):
    run_id = house.run()
    address = house.saved(run_id, size_bytes=100)
    with service_with(house, stored_bytes=100) as service:
        for seq_id, save in enumerate(("save_state", "save_for_sampler", "save_external"), 2):
            request_id = getattr(service.runs, save)(house.anna, run_id, seq_id, name="b")
            assert "take 100 bytes" in why(house, request_id)
        with pytest.raises(InvalidInputError, match="stored_bytes 100"):
            service.checkpoints.copy(house.anna, str(address), project_id="p")
        service.checkpoints.delete(house.anna, address)
        assert house.outcome(service.runs.save_state(house.anna, run_id, 5, name="b")) is None


def test_a_copy_is_counted_before_it_is_made(house):
    address = house.saved(house.run(), size_bytes=60)
    with (
        service_with(house, stored_bytes=100) as service,
        pytest.raises(InvalidInputError, match="stored_bytes"),
    ):
        service.checkpoints.copy(house.anna, str(address), project_id="p")


def test_tokens_of_training_and_sampling_run_out_together_and_others_do_not_feel_it(house):
    run_id, sampler_id = house.run(), new_sampler(house)
    theirs = house.run(house.boris)
    with service_with(house, tokens_per_minute=10) as service:
        assert service.quotas.pause("anna") is None
        service.runs.submit(house.anna, run_id, 1, batch(9))
        service.samplers.submit(house.anna, sampler_id, 0, sample(3, max_tokens=4), seed=1)

        with pytest.raises(BusyError, match="tokens_per_minute 10") as caught:
            service.runs.submit(house.anna, run_id, 2, batch(1))
        assert caught.value.retry_after_s is not None
        assert 36 < caught.value.retry_after_s <= 42  # a debt of six and one more, at ten a minute
        with pytest.raises(BusyError):
            service.samplers.submit(house.anna, sampler_id, 1, sample(1, max_tokens=1), seed=1)
        assert service.runs.submit(house.anna, run_id, 2, STEP)  # costs no tokens
        assert service.runs.submit(house.boris, theirs, 1, batch(1))

        pause = service.quotas.pause("anna")
        assert pause is not None
        assert pause.state == "paused_rate_limit"
        assert "tokens_per_minute 10" in pause.reason
        assert service.quotas.pause("boris") is None


def test_a_quota_that_was_taken_off_leaves_no_debt(house):
    now = 0.0
    quotas = service_quotas.Quotas(
        house.ledger, Limits(), Quotas(), FreeSpace(house.home, 0), now=lambda: now
    )

    def is_let_in() -> bool:
        try:
            with quotas.admission("anna", 100):
                return True
        except BusyError:
            return False

    for rate, let_in in ((20, [True, False]), (None, [True, True]), (20, [True, False])):
        house.ledger.change_project("anna", quotas={"tokens_per_minute": rate})
        now += 1.0
        assert [is_let_in(), is_let_in()] == let_in


def test_tokens_of_what_did_not_come_in_are_given_back(house):
    run_id = house.run()
    with service_with(house, tokens_per_minute=10, queued_ops=1) as service:
        service.runs.submit(house.anna, run_id, 1, STEP)
        for _ in range(3):
            with pytest.raises(BusyError, match="requests are waiting") as caught:
                service.runs.submit(house.anna, run_id, 2, batch(16))
            assert caught.value.retry_after_s is not None
        pause = service.quotas.pause("anna")
        assert pause is not None
        assert pause.state == "paused_capacity"


def test_queued_bytes_are_what_waits_in_the_ledger(house):
    sampler_id = new_sampler(house)
    with service_with(house, queued_bytes=1) as service:
        request_id, _ = service.samplers.submit(
            house.anna, sampler_id, 0, sample(1, max_tokens=1), seed=1
        )
        assert house.ledger.queued_bytes("anna") > 1
        service.close()
    with service_with(house, queued_bytes=1) as later:
        with pytest.raises(BusyError, match="queued_bytes 1"):
            later.samplers.submit(house.anna, sampler_id, 1, sample(1, max_tokens=1), seed=1)
        house.settle(request_id, Succeeded(Sampled((), None)))
        assert house.ledger.queued_bytes("anna") == 0


def test_a_projects_own_quotas_go_before_the_servers_and_are_felt_within_a_second(house):
    now = 0.0
    quotas = service_quotas.Quotas(
        house.ledger,
        Limits(),
        Quotas(rank=8, live_runs=5),
        FreeSpace(house.home, 0),
        now=lambda: now,
    )
    assert quotas.of("anna").rank == 8

    house.ledger.change_project("anna", quotas={"rank": 2.0, "no_such": 1})
    now = 1.0
    assert (quotas.of("anna").rank, quotas.of("anna").live_runs) == (2, 5)
    assert quotas.of("boris").rank == 8

    house.ledger.change_project("anna", quotas={"rank": None})
    assert quotas.of("anna").rank == 2
    now = 2.0
    assert quotas.of("anna").rank == 8


def test_a_pause_is_told_for_a_minute_after_the_last_wait(house):
    now = 0.0
    quotas = service_quotas.Quotas(
        house.ledger,
        Limits(),
        Quotas(tokens_per_minute=1),
        FreeSpace(house.home, 0),
        now=lambda: now,
    )
    with quotas.admission("anna", 2) as backlog:
        assert backlog == Backlog(Limits().max_backlog_ops, Quotas().queued_ops)
    with pytest.raises(BusyError), quotas.admission("anna", 1):
        pass
    now = 59.0
    assert quotas.pause("anna") is not None
    now = 60.0
    assert quotas.pause("anna") is None


def test_a_nearly_full_disk_takes_nothing_in_and_lets_all_else_go_on(house):
    run_id, sampler_id = house.run(), new_sampler(house)
    address = house.saved(run_id)
    more = shutil.disk_usage(house.home).total + 1
    config = replace(house.config, limits=Limits(min_free_bytes=more))
    service = house.build(config=config)
    session_id = house.session().session_id

    def refused(call, *args, **named) -> None:
        with pytest.raises(BusyError, match="disk is nearly full") as caught:
            call(house.anna, *args, **named)
        assert caught.value.retry_after_s is not None

    refused(service.runs.submit, run_id, 2, STEP)
    refused(service.runs.create, session_id, 0, base_model=MODEL, rank=4)
    refused(service.samplers.submit, sampler_id, 0, sample(1), seed=1)
    refused(service.checkpoints.copy, str(address), project_id="p")
    pause = service.quotas.pause("anna")
    assert pause is not None
    assert pause.state == "paused_capacity"

    service.sessions.heartbeat(house.anna, session_id)
    service.checkpoints.delete(house.anna, address)
    assert service.runs.get(house.anna, run_id)
    service.close()


def test_the_catalogue_tells_what_is_on_disk_by_project(house, tmp_path: Path):
    house.saved(house.run(), size_bytes=100)
    house.saved(house.run(house.boris), size_bytes=30)
    house.saved(house.run(Caller("boris")), size_bytes=3)

    assert house.ledger.stored_bytes("boris") == 33
    shares = {share.owner: share.checkpoints for share in house.ledger.disk_shares()}
    assert shares == {"anna": 100, "boris": 33}
    assert house.ledger.num_live_runs("boris") == 2
