"""The child's end of sides.py: one side of a comparison, stepped by its parent."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from operations import product_rate
from sides import Spec


class Channel:
    """Words in, answers out. Everything else that wants standard output gets standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def words(self, rate: Callable[[], float]) -> Iterator[None]:
        """One turn for each step that is asked for; answers questions for the rate itself."""
        for word in sys.stdin:
            if word.strip() == "rate":
                self.tell({"operations_per_s": rate()})
            else:
                yield

    def tell(self, answer: dict[str, Any]) -> None:
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()


def peak_bytes(device: str) -> int:
    """Most memory that this process has had: resident on a CPU, allocated on a GPU."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    return peak_of("self")


def peak_of(pid: int | str) -> int:
    """VmHWM of a process. Linux keeps it per process and hands it to nobody else."""
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise OSError(f"the kernel does not tell the peak memory of process {pid}")


def main() -> None:
    channel = Channel()
    spec = Spec.from_json(sys.argv[1])
    tokens = spec.task.batch_size * (spec.task.shortest + spec.task.longest) // 2

    def rate() -> float:
        return product_rate(spec.dtype, spec.device, spec.shape, tokens)

    side = importlib.import_module(f"{spec.kind}_side")
    turns = channel.words(rate)
    side.run(
        spec, turns, lambda step: channel.tell({**step, "peak_bytes": peak_bytes(spec.device)})
    )


if __name__ == "__main__":
    main()
