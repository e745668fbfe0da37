"""The main job on a labelled CSV, several seeds, beside three yardsticks on the same split.

    make bench NAME=reference_accuracy ARGS="--data FILE.csv.gz"

Rows: the built-in base, random weights of the same shape, multinomial naive Bayes and TF-IDF with
logistic regression. Everything runs through the command line that a person would use. `ours` is
the share of test mails whose category is right.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rows import row, run

RANDOM = "random/tiny"


def mailroom(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "mailroom.cli.main", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mailroom {arguments[0]} failed")
    return json.loads(done.stdout)


def random_weights(folder: Path) -> Path:
    """The built-in model's shape and tokenizer with weights as transformers initialises them."""
    import torch
    from tinsmith.base_models import BUILTIN_DIRECTORY
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(BUILTIN_DIRECTORY, folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def train_and_evaluate(corpus: Path, home: Path, seed: int, base: list[str]) -> dict[str, Any]:
    where = ["--corpus", str(corpus), "--home", str(home), *base]
    trained = mailroom("train", *where, "--preset", "tiny", "--seed", str(seed))
    report = mailroom("evaluate", *where, "--model", trained["model"], "--no-scoring")
    return {"seed": seed, "train_seconds": trained["seconds"], **report}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", help="0 1 2 unless --quick")
    parser.add_argument(
        "--random-seeds", type=int, nargs="*", default=[0], help="those with random weights too"
    )
    parser.add_argument("--train", type=int, help="mails to learn from, 400 unless --quick")
    parser.add_argument("--test", type=int, help="mails to test with, 2000 unless --quick")
    parser.add_argument("--taxonomy", default="reference")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    train = options.train or (40 if options.quick else 400)
    test = options.test or (40 if options.quick else 2000)
    with tempfile.TemporaryDirectory() as scratch:
        random_base = f"{RANDOM}={random_weights(Path(scratch, 'random'))}"
        for seed in options.seeds or ([0] if options.quick else [0, 1, 2]):
            corpus = Path(scratch, f"corpus-{seed}")
            mailroom(
                *("build", "--data", options.data, "--out", str(corpus)),
                *("--limit", str(train), "--test-size", str(test)),
                *("--taxonomy", options.taxonomy, "--seed", str(seed)),
            )
            one = train_and_evaluate(corpus, Path(scratch, "home"), seed, [])
            measured = {"built-in base": one["after"], **one["baselines"]}
            if seed in options.random_seeds:
                base = ["--base-model", random_base]
                other = train_and_evaluate(corpus, Path(scratch, "other"), seed, base)
                measured["random weights"] = other["after"]
            for name, score in measured.items():
                yield row(
                    f"{name}, seed {seed}",
                    ours=score["category"],
                    unit="right categories",
                    seed=seed,
                    **scores(score),
                )


def scores(measured: dict[str, Any]) -> dict[str, Any]:
    names = ("examples", "category", "format", "priority_given_category", "macro_f1")
    return {name: measured[name] for name in names}


if __name__ == "__main__":
    run("reference_accuracy", __doc__, options, measure)
