from dataclasses import asdict, replace

import pytest
from mailroom.errors import MailroomError
from mailroom.training.plan import REFERENCE
from mailroom.training.run_directory import RunDirectory, RunState, StepMetrics, find_run

STATE = RunState(digest="d", plan=asdict(REFERENCE), corpus="c")


def metrics(step: int) -> StepMetrics:
    return StepMetrics(step, 1.0 / step, 1e-4, 100, 40, 0.5 * step)


def test_a_directory_without_a_run_has_no_state(tmp_path):
    assert RunDirectory(tmp_path / "none").load() is None


def test_a_state_comes_back_as_it_was_saved(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    state = replace(STATE, step=20, checkpoint="tinker://r/weights/step-000020", seconds=1.5)

    directory.save(STATE)
    directory.save(state)

    assert directory.load() == state
    assert [path.name for path in directory.path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', '{"version": 1, "x": 2}'])
def test_a_damaged_state_is_named_and_not_overwritten(tmp_path, text):
    (tmp_path / "run.json").write_text(text)

    with pytest.raises(MailroomError, match=r"run\.json"):
        RunDirectory(tmp_path).load()
    assert (tmp_path / "run.json").read_text() == text


def test_going_on_drops_the_steps_after_the_checkpoint(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.truncate_metrics(0)
    for step in (1, 2, 3):
        directory.append_metrics(metrics(step))

    directory.truncate_metrics(2)

    assert directory.metrics() == [metrics(1), metrics(2)]


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.append_metrics(metrics(1))
    with directory.metrics_path.open("a") as file:
        file.write('{"step": 2, "lo')

    assert directory.metrics() == [metrics(1)]


def test_a_run_is_found_by_the_model_it_made(tmp_path):
    directory = RunDirectory(tmp_path / "runs" / "a")
    model = "tinker://r:train:0/sampler_weights/final"
    directory.save(replace(STATE, model=model))
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "run.json").write_text("damaged")

    found = find_run(tmp_path, model)

    assert found is not None and found.path == directory.path
    assert find_run(tmp_path, "tinker://other/sampler_weights/final") is None


def test_a_run_elsewhere_is_found_where_it_is_said_to_be(tmp_path):
    model = "tinker://r:train:0/sampler_weights/final"
    elsewhere = RunDirectory(tmp_path / "elsewhere")
    elsewhere.save(replace(STATE, model=model))

    assert find_run(tmp_path / "corpus", model) is None
    found = find_run(tmp_path / "corpus", model, str(elsewhere.path))
    assert found is not None and found.path == elsewhere.path
    # Something else has been trained into that folder since.
    assert find_run(tmp_path / "corpus", model + "2", str(elsewhere.path)) is None
