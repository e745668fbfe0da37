from dataclasses import replace

import pytest
from mailroom.errors import MailroomError
from mailroom.training.plan import PRESETS, REFERENCE, Plan, preset_for
from mailroom.training.schedule import batch_of, learning_rate_of, num_steps, steps_per_epoch


def test_each_epoch_visits_every_example_once_in_an_order_of_its_own():
    plan = replace(REFERENCE, batch_size=4, num_epochs=2)
    per_epoch = steps_per_epoch(plan, 10)

    epochs = [
        [place for step in range(e * per_epoch, (e + 1) * per_epoch)
         for place in batch_of(plan, 10, step)]
        for e in range(2)
    ]  # fmt: skip

    assert per_epoch == 3 and num_steps(plan, 10) == 6
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


def test_a_batch_depends_on_seed_and_step_alone():
    assert batch_of(REFERENCE, 400, 57) == batch_of(REFERENCE, 400, 57)
    assert batch_of(REFERENCE, 400, 57) != batch_of(replace(REFERENCE, seed=1), 400, 57)


def test_the_last_batch_of_an_epoch_holds_what_is_left():
    assert [len(batch_of(REFERENCE, 10, step)) for step in range(3)] == [4, 4, 2]


def test_a_constant_rate_rises_over_the_warm_up_and_stays():
    plan = replace(REFERENCE, learning_rate=0.3, schedule="constant", warmup_steps=2)

    rates = [learning_rate_of(plan, 5, step) for step in range(5)]

    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])


def test_a_linear_rate_would_reach_nothing_one_step_after_the_last():
    plan = replace(REFERENCE, learning_rate=0.4, schedule="linear", warmup_steps=0)

    assert [learning_rate_of(plan, 4, step) for step in range(4)] == pytest.approx(
        [0.4, 0.3, 0.2, 0.1]
    )


def test_a_run_shorter_than_its_warm_up_still_learns():
    plan = replace(REFERENCE, learning_rate=1.0, schedule="linear", warmup_steps=10)

    assert all(0 < learning_rate_of(plan, 2, step) <= 1.0 for step in range(2))
    assert learning_rate_of(plan, 1, 0) == 1.0


def test_the_reference_preset_is_the_write_ups():
    plan = PRESETS["reference"]

    assert plan == Plan(
        base_model="Qwen/Qwen3-4B-Instruct-2507",
        num_examples=400,
        rank=32,
        train_unembed=False,
        batch_size=4,
        learning_rate=1e-4,
        num_epochs=3,
        weight_decay=0.0,
    )


def test_the_tiny_preset_differs_only_in_base_model_and_learning_rate():
    tiny, reference = PRESETS["tiny"], PRESETS["reference"]

    same = replace(
        tiny,
        base_model=reference.base_model,
        learning_rate=reference.learning_rate,
        schedule=reference.schedule,
        warmup_steps=reference.warmup_steps,
    )

    assert same == reference
    assert preset_for(None) == preset_for("tinsmith/tiny") == "tiny"
    assert preset_for("Qwen/Qwen3-0.6B") == "reference"


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0},
        {"batch_size": 0},
        {"num_epochs": 0},
        {"num_examples": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"schedule": "cosine"},
        {"max_prompt_tokens": 10},
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_its_value(wrong):
    with pytest.raises(MailroomError, match=str(next(iter(wrong.values())))):
        replace(REFERENCE, **wrong)


def test_a_digest_tells_runs_apart_by_settings_data_and_service():
    digests = {
        REFERENCE.digest("data", "local"),
        replace(REFERENCE, seed=1).digest("data", "local"),
        REFERENCE.digest("other data", "local"),
        REFERENCE.digest("data", "https://service.example"),
    }

    assert len(digests) == 4
    assert REFERENCE.digest("data", "local") in digests
