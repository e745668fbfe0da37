"""How long a small tenant waits beside a large one, and who gets how much.

The built-in model, through HTTP, with keys.

Project `crowd` has 1,000 batches queued, of eight examples and some 640 tokens each, which is a
turn. `asks` samples 32 tokens, over and over. `single` sends a
forward_backward of one datum now and then. How many turns of others it waits for is counted by the
engine (the one that is under way included) and read from /metrics. `theirs` is what first come,
first served would have been: the turns that were queued at that moment, of which the engine tells,
and for ms those turns at the rate at which the engine took them. `limit` is one turn of each other.

Then the shares of tokens: of two projects that train, with weights 1:1 and 1:3, and of one that
trains beside one that samples 64 sequences at once.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fair_tenants import Operator, Tenant, tinsmith
from mail_batches import Task
from rows import row, run, say
from server import Server

VOCAB = 3072
"""Of the built-in model."""
WEIGHTS_NOTICED_S = 6.0


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queued", type=int, help="batches of the crowd; 1,000 unless --quick")
    parser.add_argument("--ops", type=int, help="of the single one; 60 unless --quick")
    parser.add_argument("--seconds", type=float, help="for each share; 30 unless --quick")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from tinsmith.base_models import BUILTIN_NAME

    queued = options.queued or (200 if options.quick else 1000)
    ops = options.ops or (5 if options.quick else 60)
    seconds = options.seconds or (4.0 if options.quick else 30.0)
    task = Task(VOCAB, 1, 8, shortest=60, longest=100, num_shared=8, num_weighted=20)
    (large,) = task.batches()
    (small,) = replace(task, batch_size=1, longest=60).batches()
    with Server("--device", "cpu") as server:
        operator = Operator(server.url, server.home)
        crowd, asks, single, other = (
            Tenant(server.url, server.home, name, BUILTIN_NAME)
            for name in ("crowd", "asks", "single", "other")
        )
        crowd.queue(large, queued)
        say(f"  {queued} batches are queued")
        asks.keep_sampling(list(range(8, 40)), 32, 1)
        yield from rows_of_waiting(operator, single, small, ops, queued)
        asks.stop()
        asks.keep_sampling(list(range(8, 40)), 256, 64)
        yield shares(operator, "of one that samples beside one that trains", "asks", seconds)
        asks.stop()
        other.queue(large, queued)
        for weight in (1, 3):
            tinsmith(server.home, "projects", "set", "other", "--weight", str(weight))
            time.sleep(WEIGHTS_NOTICED_S)
            what = f"of one that trains beside another, weights {weight}:1"
            yield shares(operator, what, "other", seconds, float(weight))


def rows_of_waiting(
    operator: Operator, single: Tenant, small: Any, ops: int, queued: int
) -> Iterator[dict[str, Any]]:
    draw = random.Random(0)
    before = operator.told()
    num_before = before.num_waits("single")
    times, turns_left = [], []
    for _ in range(ops):
        time.sleep(0.3 * draw.random())
        turns_left.append(operator.told().of("crowd", "ops_waiting"))
        times.append(single.wait_for(small))
    after = operator.told_when(lambda told: told.num_waits("single") == num_before + ops)
    num_turns = sum(
        after.of(name, "turns_total") - before.of(name, "turns_total")
        for name in ("crowd", "asks", "single")
    )
    crowds = after.of("crowd", "turns_total") - before.of("crowd", "turns_total")
    turn_s = (after.at - before.at) / max(1.0, crowds)
    say(f"  {num_turns:.0f} turns, {crowds:.0f} of them of the crowd, {turn_s * 1e3:.0f} ms each")
    for name, share, place in (("p50", 0.5, 9), ("p95", 0.95, 18)):
        first_come = statistics.quantiles(turns_left, n=20)[place]
        yield row(
            f"one datum beside {queued} batches, {name} of turns waited",
            ours=after.waited_since(before, "single", share),
            theirs=first_come,
            unit="turns of others",
            limit=2.0,
        )
        yield row(
            f"one datum beside {queued} batches, {name} from submit to result",
            ours=1e3 * statistics.quantiles(times, n=20)[place],
            theirs=1e3 * turn_s * first_come,
            unit="ms",
        )


def shares(
    operator: Operator, what: str, project: str, seconds: float, weight: float = 1.0
) -> dict[str, Any]:
    """Tokens that went through the model for the project in this time, beside the crowd's."""
    before = operator.told()
    time.sleep(seconds)
    after = operator.told()
    had = {
        name: after.of(name, "tokens_total") - before.of(name, "tokens_total")
        for name in (project, "crowd")
    }
    return row(
        f"tokens {what}",
        ours=had[project] / max(1.0, had["crowd"]),
        unit="times the crowd's",
        limit=weight,
        tokens=had,
    )


if __name__ == "__main__":
    run("fairness", __doc__, options, measure)
