"""Small made-up stand-ins for the data sets that the recipes name.

`load_dataset("org/name")` takes a folder of that name in the working directory before it asks the
hub, so recipes whose data sets are written into them run offline. Rows have the columns that the
real sets have.

What the rows teach is chosen so that every recipe has something to learn from: after a few steps
the model answers word problems with one of two numbers in a box, and sums either briefly or at
length. Rewards then differ within a group, and reinforcement learning has advantages that are not
all zero.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

BOX_REQUEST = " Provide a numerical answer without units, written inside \\boxed{}."
"""As rl_loop.py and math_env.py put it behind each question of GSM8K."""
SUMS = "sums.jsonl"
"""Conversations for the recipes that read a file of them."""
_THINGS = ("apples", "letters", "keys", "cups", "stamps", "coins", "boats", "lamps")
_NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Ida")


def write(directory: Path) -> None:
    """All stand-ins, below the folder in which the recipes will run."""
    draw = random.Random(0)
    _write_splits(
        directory / "HuggingFaceH4" / "no_robots",
        train=[_two_answers(draw) for _ in range(256)],
        test=[_two_answers(draw) for _ in range(8)],
    )
    _write_splits(
        directory / "openai" / "gsm8k",
        config="main",
        train=[_word_problem(draw) for _ in range(64)],
        test=[_word_problem(draw) for _ in range(4)],
    )
    _write_splits(
        directory / "Anthropic" / "hh-rlhf",
        train=[_comparison(draw) for _ in range(64)],
        test=[_comparison(draw) for _ in range(8)],
    )
    _write_splits(
        directory / "allenai" / "tulu-3-sft-mixture",
        train=[_chat(_question(draw), _boxed(draw)) for _ in range(64)],
    )
    _write_splits(
        directory / "hicai-zju" / "SciKnowEval", test=[_multiple_choice(draw) for _ in range(40)]
    )
    _write_rows(directory / SUMS, [_sum(draw) for _ in range(128)])


def _chat(*turns: str) -> Row:
    """Messages of user and assistant by turns."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]}


def _two_answers(draw: random.Random) -> Row:
    """With an example before the question, as the recipes of mathematics prompt."""
    return _chat(_boxed_question(draw), _boxed(draw), _boxed_question(draw), _boxed(draw))


def _question(draw: random.Random) -> str:
    name, things = draw.choice(_NAMES), draw.choice(_THINGS)
    return f"{name} has {draw.randint(1, 3)} {things} and finds one more. How many {things} now?"


def _boxed_question(draw: random.Random) -> str:
    return _question(draw) + BOX_REQUEST


def _boxed(draw: random.Random) -> str:
    return f"\\boxed{{{draw.choice((3, 4))}}}"


def _word_problem(draw: random.Random) -> Row:
    return {"question": _question(draw), "answer": f"One more.\n#### {draw.choice((3, 4))}"}


def _comparison(draw: random.Random) -> Row:
    asked = f"\n\nHuman: {_question(draw)}\n\nAssistant:"
    return {"chosen": f"{asked} Four, I think.", "rejected": f"{asked} I will not say."}


def _multiple_choice(draw: random.Random) -> Row:
    return {
        "domain": "Chemistry",
        "details": {"level": "L3"},
        "type": "mcq-2-choices",
        "question": _question(draw),
        "choices": {"label": ["A", "B"], "text": ["three", "four"]},
        "answerKey": draw.choice("AB"),
    }


def _sum(draw: random.Random) -> Row:
    x, y = draw.randint(0, 100), draw.randint(0, 100)
    brief, long = f"{x + y}", f"To add {x} and {y} we count on from {x} and so we find {x + y}"
    return _chat(f"What is {x} + {y}?", draw.choice((brief, long)))


def _write_splits(directory: Path, *, config: str | None = None, **splits: Iterable[Row]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        _write_rows(directory / f"{split}.jsonl", rows)
    if config is not None:  # a card, as it makes a configuration of the files
        files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
        card = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n"
        (directory / "README.md").write_text(card)


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
