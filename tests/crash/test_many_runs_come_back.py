"""A server with many runs answers soon after a restart: runs come back when something is asked."""

from __future__ import annotations

import time

import pytest
import tinker
from killable_server import KillableServer, running
from watched_training import ask, assert_nothing_failed

MODEL = "tinsmith/tiny"
NUM_RUNS = 100
MAX_REPLAY_S = 0.2


def batch() -> list[tinker.Datum]:
    tokens = list(range(8, 40))
    return [
        tinker.Datum(
            model_input=tinker.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={
                "target_tokens": tokens[1:],
                "weights": [1.0] * (len(tokens) - 1),
            },
        )
    ]


@pytest.mark.timeout(600)
def test_a_hundred_runs(make_server):
    with running(make_server(f"[recovery]\nmax_replay_s = {MAX_REPLAY_S}\n")) as server:
        service = tinker.ServiceClient(base_url=server.url, api_key="tml-crash")
        runs = [
            service.create_lora_training_client(MODEL, rank=4, seed=seed).result()
            for seed in range(NUM_RUNS)
        ]
        for _ in range(3):
            steps = []
            for run in runs:
                run.forward_backward(batch(), "cross_entropy")
                steps.append(run.optim_step(tinker.AdamParams(learning_rate=1e-3)))
            for step in steps:
                step.result()
        before = [run.forward(batch(), "cross_entropy").result() for run in runs]

        server.kill_everything()
        unsaved_s = unsaved_engine_s(server)
        started = time.monotonic()
        server.start()
        server.wait_until_ready()
        ready_s = time.monotonic() - started
        after = [runs[0].forward(batch(), "cross_entropy").result()]
        first_s = time.monotonic() - started
        after += [run.forward(batch(), "cross_entropy").result() for run in runs[1:]]
        all_s = time.monotonic() - started
        service.close("success").result()

        assert [one.metrics for one in after] == [one.metrics for one in before]
        assert_nothing_failed(server)
    print(
        f"{NUM_RUNS} runs: ready {ready_s:.1f} s, first answer {first_s:.1f} s, all have answered "
        f"{all_s:.1f} s after the start; to repeat: at most {max(unsaved_s):.2f} s of a run"
    )


def unsaved_engine_s(server: KillableServer) -> list[float]:
    """For each run, what a restart repeats: the time of its ops behind the newest snapshot."""
    newest = "select coalesce(max(seq_id), -1) from snapshots where run_id = ops.scope"
    spent = "coalesce(sum(json_extract(execution, '$.engine_s')), 0.0)"
    return [
        row[0]
        for row in ask(
            server,
            f"select {spent} from ops join runs on run_id = scope where seq_id > ({newest}) "
            "group by scope",
        )
    ]
