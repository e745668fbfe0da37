from __future__ import annotations

import pytest
from tinsmith.domain.errors import InvalidInputError, NotFoundError
from tinsmith.domain.outcomes import Failed


def test_a_copy_outlives_its_source_and_belongs_to_who_made_it(house):
    checkpoints = house.service.checkpoints
    source = house.saved(house.run())
    checkpoints.publish(house.anna, source)

    copy = checkpoints.copy(house.boris, str(source), project_id="archive")
    checkpoints.delete(house.anna, source)

    row = checkpoints.get(house.boris, copy)
    assert (row.address.kind, row.address.name) == (source.kind, source.name)
    assert row.lora == house.ledger.run(source.run_id).lora
    assert not row.is_public
    assert house.store.read_optimizer(copy)
    assert house.store.manifest(copy)["address"] == str(copy)
    assert house.store.sweep(lambda address: address == copy) == 0
    with pytest.raises(NotFoundError):
        checkpoints.get(house.anna, copy)


def test_a_repeated_copy_makes_one(house):
    source = house.saved(house.run())

    def copy(key: str):
        return house.service.checkpoints.copy(
            house.anna, str(source), project_id="p", idempotency_key=key
        )

    assert copy("one") == copy("one") != copy("two")


def test_a_run_starts_from_a_copy_but_the_copy_is_not_trained_on(house):
    source = house.saved(house.run())
    copy = house.service.checkpoints.copy(house.anna, str(source), project_id="p")

    request_id = house.service.runs.load_state(
        house.anna, copy.run_id, 1, path=str(copy), with_optimizer=True
    )
    outcome = house.outcome(request_id)
    assert isinstance(outcome, Failed)
    assert "only holds a copied checkpoint" in outcome.message

    session = house.session().session_id
    started = house.service.runs.create_from_state(
        house.anna, session, 0, path=str(copy), with_optimizer=True
    )
    assert started == f"{session}:train:0#0"


@pytest.mark.parametrize("ttl_s", [0, 10**12])
def test_a_copy_refuses_a_ttl_out_of_range_and_what_is_not_there(house, ttl_s):
    source = house.saved(house.run())
    with pytest.raises(InvalidInputError, match="ttl_seconds"):
        house.service.checkpoints.copy(house.anna, str(source), project_id="p", ttl_s=ttl_s)
    with pytest.raises(NotFoundError):
        house.service.checkpoints.copy(house.boris, str(source), project_id="p")
