"""`tinsmith runs`, as documented, beside a server that the SDK trains on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import tinker
from click.testing import CliRunner
from sdk_steps import ADAM, MODEL, LiveServer, adapter_of, assert_equal_adapters, batch_of
from tinsmith.cli import main

NUM_STEPS = 5


def runs_command(live_server: LiveServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: what it computes with must not depend on this one."""
    return subprocess.run(
        [sys.executable, "-m", "tinsmith.cli", "runs", *arguments, "--home", str(live_server.home)],
        capture_output=True,
        text=True,
        env=live_server.environment(),
        check=False,
    )


def told(live_server: LiveServer, *arguments: str) -> dict:
    done = runs_command(live_server, *arguments, "--json")
    assert done.returncode == 0, (done.stdout, done.stderr)
    return json.loads(done.stdout)


def steps(run: tinker.TrainingClient, seeds: list[int]) -> tuple[list[float], list[float]]:
    """Losses and gradient norms."""
    losses, norms = [], []
    for seed in seeds:
        passed = run.forward_backward(batch_of(3, seed=seed), "cross_entropy")
        stepped = run.optim_step(ADAM)
        losses.append(passed.result().metrics["loss:sum"])
        norms.append(stepped.result().metrics["grad_norm:mean"])
    return losses, norms


@pytest.fixture(scope="module")
def trained(service: tinker.ServiceClient):
    run = service.create_lora_training_client(MODEL, rank=4, seed=7).result()
    losses, norms = steps(run, list(range(NUM_STEPS)))
    return run, losses, norms


def model_option(live_server: LiveServer) -> list[str]:
    return ["--model", f"{MODEL}={live_server.model_directory}"]


def test_the_log_has_the_losses_and_norms_that_the_client_was_told(live_server, trained):
    run, losses, norms = trained

    log = told(live_server, "log", run.model_id)

    passes = [op for op in log["ops"] if op["kind"] == "forward_backward"]
    taken = [op for op in log["ops"] if op["kind"] == "optim_step"]
    assert [op["metrics"]["loss:sum"] for op in passes] == losses
    assert [op["metrics"]["grad_norm:mean"] for op in taken] == norms
    assert [op["step"] for op in taken] == list(range(1, NUM_STEPS + 1))
    assert all(op["engine_s"] > 0 for op in passes)
    assert (log["state"], log["steps"], log["covered_from_step"]) == ("live", NUM_STEPS, 0)
    assert log["inexact"] is None
    for command in (["log", run.model_id], ["list", "--limit", "10000"]):
        shown = CliRunner().invoke(main, ["runs", *command, "--home", str(live_server.home)])
        assert shown.exit_code == 0
        assert (f"step {NUM_STEPS}" if command[0] == "log" else run.model_id) in shown.stdout


@pytest.mark.parametrize("step", [0, 2, NUM_STEPS])
def test_a_fork_goes_on_as_the_run_did(live_server, service, rest, trained, step: int):
    run, losses, norms = trained

    forked = told(live_server, "fork", run.model_id, "--at", str(step), *model_option(live_server))
    again = service.create_training_client_from_state_with_optimizer(forked["address"]).result()
    repeated = steps(again, list(range(step, NUM_STEPS)))

    assert forked["is_exact"] and forked["step"] == step
    assert repeated == (losses[step:], norms[step:])
    assert_equal_adapters(*(adapter_of(one, rest, f"end-{step}") for one in (run, again)))


def test_a_run_done_again_is_the_same_bit_for_bit(live_server, trained):
    run, _, _ = trained

    found = told(live_server, "verify", run.model_id, *model_option(live_server))

    assert found["is_exact"] and found["differing"] == []
    assert (found["first_step"], found["last_step"]) == (0, NUM_STEPS)
    assert found["num_repeated"] == 2 * NUM_STEPS


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["fork", "{run}", "--at", "99"], "has taken 5 steps"),
        (["fork", "{run}", "--at", "-1"], "has taken 5 steps"),
        (["fork", "no-such-run", "--at", "1"], "there is no run 'no-such-run'"),
        (["fork", "{run}", "--at", "1", "--name", "../x"], "name"),
        (["log", "no-such-run"], "there is no run"),
        (["verify", "no-such-run"], "there is no run"),
    ],
)
def test_what_cannot_be_says_why(live_server, trained, arguments: list[str], why: str):
    run, _, _ = trained

    filled = [one.format(run=run.model_id) for one in arguments]
    done = CliRunner().invoke(main, ["runs", *filled, "--home", str(live_server.home)])

    assert done.exit_code == 1
    assert why in done.stderr and "Traceback" not in done.stderr
