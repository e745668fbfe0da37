"""The training loop against a real service: interrupted, pipelined or plain, the same result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from mailroom.corpus.corpus import Corpus
from mailroom.errors import MailroomError
from mailroom.export.download import download_adapter
from mailroom.service.connect import Service
from mailroom.training.plan import PRESETS, Plan
from mailroom.training.run import Trained, train
from mailroom.training.run_directory import RunDirectory, StepMetrics

PLAN = replace(PRESETS["tiny"], num_examples=14, num_epochs=2, rank=4)  # 8 steps


def run(
    service: Service, corpus: Corpus, directory: RunDirectory, plan: Plan = PLAN, **options
) -> Trained:
    return train(
        service,
        corpus.train,
        corpus.taxonomy,
        plan,
        directory,
        corpus="builtin",
        corpus_digest=corpus.digest,
        base_model=plan.base_model,
        **options,
    )


def adapter_bytes(service: Service, path: str, folder: Path) -> bytes:
    folder.mkdir()
    download_adapter(service, path, folder, lambda line: None)
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(service, corpus, tmp_path_factory) -> tuple[Trained, bytes, list[float]]:
    directory = RunDirectory(tmp_path_factory.mktemp("undisturbed"))
    trained = run(service, corpus, directory, checkpoint_every=3)
    weights = adapter_bytes(service, trained.model, directory.path / "adapter")
    return trained, weights, [metrics.loss for metrics in directory.metrics()]


def test_a_run_learns_and_tells_what_it_made(service, corpus, undisturbed):
    trained, _, losses = undisturbed

    assert trained.steps == 8 == len(losses)
    assert (trained.first_loss, trained.last_loss) == (losses[0], losses[-1])
    assert trained.last_loss < trained.first_loss
    assert "/sampler_weights/" in trained.model and "/weights/" in trained.state
    assert trained.adapter_bytes is not None and trained.adapter_bytes > 0


def test_the_number_of_parameters_is_that_of_the_exported_adapter(undisturbed, tmp_path):
    from safetensors.numpy import load

    trained, weights, _ = undisturbed

    assert trained.trainable_parameters == sum(tensor.size for tensor in load(weights).values())


def test_waiting_for_each_step_gives_the_same_numbers(service, corpus, undisturbed, tmp_path):
    directory = RunDirectory(tmp_path / "run")

    trained = run(service, corpus, directory, sync=True, checkpoint_every=3)

    _, weights, losses = undisturbed
    assert [metrics.loss for metrics in directory.metrics()] == losses
    assert adapter_bytes(service, trained.model, tmp_path / "adapter") == weights


def test_an_interrupted_run_goes_on_to_the_same_result(service, corpus, undisturbed, tmp_path):
    directory = RunDirectory(tmp_path / "run")

    def interrupt(metrics: StepMetrics, total: int) -> None:
        if metrics.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(service, corpus, directory, checkpoint_every=3, on_step=interrupt)
    state = directory.load()
    assert state is not None and state.step == 3 and not state.is_complete

    seen: list[int] = []
    trained = run(
        service, corpus, directory, checkpoint_every=3,
        on_step=lambda metrics, total: seen.append(metrics.step),
    )  # fmt: skip

    _, weights, losses = undisturbed
    assert trained.resumed_from == 3 and seen == [4, 5, 6, 7, 8]
    assert [metrics.loss for metrics in directory.metrics()] == losses
    assert adapter_bytes(service, trained.model, tmp_path / "adapter") == weights


def test_a_complete_run_is_not_trained_again_unless_asked(service, corpus, undisturbed, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    plan = replace(PLAN, num_examples=4, num_epochs=1)

    first = run(service, corpus, directory, plan)
    second = run(service, corpus, directory, plan)
    third = run(service, corpus, directory, plan, fresh=True)

    assert second == replace(first, resumed_from=1, was_complete=True)
    assert third.model != first.model and third.last_loss == first.last_loss


def test_a_directory_is_not_gone_on_with_for_other_settings(service, corpus, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    plan = replace(PLAN, num_examples=4, num_epochs=1)
    run(service, corpus, directory, plan)

    with pytest.raises(MailroomError, match="--run"):
        run(service, corpus, directory, replace(plan, seed=1))
    assert run(service, corpus, directory, replace(plan, seed=1), fresh=True).resumed_from == 0
    assert len(directory.metrics()) == 1


def test_a_checkpoint_that_is_gone_says_how_to_start_over(service, corpus, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    plan = replace(PLAN, num_examples=8, num_epochs=1)

    def interrupt(metrics: StepMetrics, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(service, corpus, directory, plan, checkpoint_every=1, sync=True, on_step=interrupt)
    state = directory.load() or pytest.fail("no state")
    directory.save(replace(state, step=1, checkpoint="tinker://gone:train:0/weights/step-000001"))

    with pytest.raises(MailroomError, match="--fresh"):
        run(service, corpus, directory, plan)


def test_a_training_checkpoint_exports_to_the_same_adapter(service, undisturbed, tmp_path):
    trained, weights, _ = undisturbed

    assert adapter_bytes(service, trained.state, tmp_path / "adapter") == weights
