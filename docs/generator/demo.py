"""One real run of `mailroom demo`, recorded: what the tutorial shows and explains."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from mailroom.corpus.corpus import Corpus
from mailroom.training.run_directory import RunDirectory
from safetensors.numpy import load_file
from tinsmith.domain.ops import LoraConfig
from tinsmith.engine.adapter import AdapterState

from generator import mechanics
from generator.bench import RANK, SEED, Bench

OWN_SERVICE = ("TINKER_BASE_URL", "TINKER_API_KEY", "HF_ENDPOINT")
HEADING = re.compile(r"^(\S.*)  \[(\d+) s\]$")
END = "Done in "
RUN_ID = re.compile(r"tinker://[^/\s]+/")


def record(scratch: Path) -> dict[str, Any]:
    """Run the demo into a new folder, and keep what the pages quote.

    Raises:
        SystemExit: the demo failed; its output has been shown.
    """
    environment = {k: v for k, v in os.environ.items() if k not in OWN_SERVICE}
    environment["MAILROOM_HOME"] = "home"
    # In that folder, so that no path of this machine is printed.
    command = [sys.executable, "-m", "mailroom.cli.main", "demo", "--out", "demo", "--json"]
    done = subprocess.run(
        command,
        env=environment,
        cwd=scratch,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"the demo failed:\n{done.stdout}\n{done.stderr}")
    result = json.loads(done.stdout)
    out = scratch / "demo"
    run, corpus = RunDirectory(out / "run"), Corpus.load(out / "corpus")
    state, metrics = run.load(), run.metrics()
    assert state is not None
    bench = Bench.open(scratch)
    adapter = AdapterState.from_arrays(
        bench.base,
        LoraConfig(rank=RANK, seed=SEED, train_unembed=False),
        load_file(out / "adapter" / "adapter_model.safetensors"),
    )
    return {
        "seconds": result["seconds"],
        "before": result["before"],
        "after": result["after"],
        "baselines": result["baselines"],
        "mistakes": mistakes(result["confusion"]),
        "story": story(done.stderr),
        "corpus": {
            "train": len(corpus.train),
            "test": len(corpus.test),
            "train_by_category": Counter(example.category for example in corpus.train),
        },
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


def story(said: str) -> list[dict[str, Any]]:
    """What the demo told, by section, without progress and the like. Run ids become RUN."""
    sections: list[dict[str, Any]] = []
    for line in RUN_ID.sub("tinker://RUN/", said).splitlines():
        if heading := HEADING.match(line):
            sections.append({"title": heading[1], "at_s": int(heading[2]), "lines": []})
        elif line.startswith(END):
            sections.append({"title": "The end", "at_s": 0, "lines": [line.rstrip()]})
        elif sections and line[:2].strip() == "":  # else it is about the service, or progress
            sections[-1]["lines"].append(line.rstrip())
    for section in sections:
        section["lines"] = "\n".join(section["lines"]).strip("\n").split("\n")
    return sections


def mistakes(confusion: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """What was taken for what, the most frequent first."""
    found = [
        {"is": want, "taken_for": got, "count": count}
        for want, row in confusion.items()
        for got, count in row.items()
        if want != got and count
    ]
    return sorted(found, key=lambda mistake: -mistake["count"])


def photograph(report: Path, picture: Path, browser: str) -> None:
    """The upper part of a report as a picture, by a Chromium without a window.

    Raises:
        SystemExit: the browser failed.
    """
    size = "--window-size=1120,975"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size]
    done = subprocess.run(
        [*command, f"--screenshot={picture}", report.as_uri()],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not picture.exists():
        raise SystemExit(f"no picture of the report: {done.stderr}")
