"""One real run of `mailroom demo`, recorded: what the tutorial shows and explains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from generator import mechanics
from generator.bench import RANK, SEED, Bench
from mailroom.corpus.corpus import Corpus
from mailroom.training.run_directory import RunDirectory
from safetensors.numpy import load_file
from tinsmith.domain.ops import LoraConfig
from tinsmith.engine.adapter import AdapterState

OWN_SERVICE = ("TINKER_BASE_URL", "TINKER_API_KEY", "HF_ENDPOINT")


def record(scratch: Path) -> dict[str, Any]:
    """Run the demo into a new folder, and keep what the pages quote.

    Raises:
        SystemExit: the demo failed; its output has been shown.
    """
    out = scratch / "demo"
    environment = {k: v for k, v in os.environ.items() if k not in OWN_SERVICE}
    command = [sys.executable, "-m", "mailroom.cli.main", "demo", "--out", str(out), "--json"]
    command += ["--home", str(scratch / "home")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the demo failed:\n{done.stdout}\n{done.stderr}")
    result = json.loads(done.stdout)
    run = RunDirectory(next(out.rglob("run.json")).parent)
    state = run.load()
    assert state is not None
    corpus = Corpus.load(next(out.rglob("corpus.json")).parent)
    bench = Bench.open(scratch)
    adapter = AdapterState.from_arrays(
        bench.base,
        LoraConfig(rank=RANK, seed=SEED, train_unembed=False),
        load_file(next(out.rglob("adapter_model.safetensors"))),
    )
    metrics = run.metrics()
    return {
        "seconds": result["seconds"],
        "before": result["before"],
        "after": result["after"],
        "baselines": result["baselines"],
        "said": _without_places(done.stderr, scratch),
        "files": sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()),
        "corpus": {"train": len(corpus.train), "test": len(corpus.test)},
        "plan": state.plan,
        "train": {
            "steps": state.step,
            "seconds": state.seconds,
            "first_loss": metrics[0].loss,
            "last_loss": metrics[-1].loss,
            "trainable_parameters": state.trainable_parameters,
            "adapter_bytes": state.adapter_bytes,
        },
        "curve": [[step.step, step.loss] for step in metrics],
        "trained": mechanics.trained(bench, adapter),
    }


def _without_places(text: str, scratch: Path) -> list[str]:
    """The lines that the demo said, without the folders of this machine."""
    return text.replace(f"{scratch}{os.sep}", "").splitlines()
