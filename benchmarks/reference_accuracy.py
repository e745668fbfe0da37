"""The main job on a labelled CSV, several seeds, beside three yardsticks on the same split.

    make bench NAME=reference_accuracy ARGS="--data FILE.csv.gz"

Rows: the built-in base, random weights of the same shape, multinomial naive Bayes and TF-IDF with
logistic regression. Everything runs through the command line that a person would use.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import machine

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


def run(corpus: Path, home: Path, seed: int, base: list[str]) -> dict[str, Any]:
    where = ["--corpus", str(corpus), "--home", str(home), *base]
    trained = mailroom("train", *where, "--preset", "tiny", "--seed", str(seed))
    report = mailroom("evaluate", *where, "--model", trained["model"], "--no-scoring")
    return {"seed": seed, "train_seconds": trained["seconds"], **report}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--random-seeds", type=int, nargs="*", default=[0], help="those with random weights too"
    )
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--taxonomy", default="reference")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="write the result here as well")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    about = machine()
    with tempfile.TemporaryDirectory() as scratch:
        random_base = f"{RANDOM}={random_weights(Path(scratch, 'random'))}"
        for seed in options.seeds:
            corpus = Path(scratch, f"corpus-{seed}")
            mailroom(
                *("build", "--data", options.data, "--out", str(corpus)),
                *("--limit", str(options.train), "--test-size", str(options.test)),
                *("--taxonomy", options.taxonomy, "--seed", str(seed)),
            )
            one = run(corpus, Path(scratch, "home"), seed, [])
            measured = {"built-in base": one["after"], **one["baselines"]}
            if seed in options.random_seeds:
                base = ["--base-model", random_base]
                measured["random weights"] = run(corpus, Path(scratch, "other"), seed, base)[
                    "after"
                ]
            for name, score in measured.items():
                rows.append({"row": name, "seed": seed, **scores(score)})
                show(rows[-1])
    result = {"benchmark": "reference_accuracy", "rows": rows, "machine": about}
    if options.keep:
        options.keep.write_text(json.dumps(result, indent=2) + "\n")
    if options.json:
        print(json.dumps(result))


def scores(measured: dict[str, Any]) -> dict[str, Any]:
    names = ("examples", "category", "format", "priority_given_category", "macro_f1")
    return {name: measured[name] for name in names}


def show(row: dict[str, Any]) -> None:
    told = [f"{key} {value:.4f}" for key, value in row.items() if isinstance(value, float)]
    print(f"{row['row']:16} seed {row['seed']}  {'  '.join(told)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
