"""Time from `tinsmith serve` to healthy with the built-in model.

Healthy means that the model has answered: /api/v1/healthz says 200 only after a forward pass
whose result was compared with transformers' own.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

from rows import row, run
from server import Server


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, help="the median counts")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    times = []
    for _ in range(options.repeats or (2 if options.quick else 5)):
        with Server() as server:
            times.append(server.start_s)
    yield row("serve to healthy", ours=statistics.median(times), unit="s", times=times)


if __name__ == "__main__":
    run("startup", __doc__, options, measure)
