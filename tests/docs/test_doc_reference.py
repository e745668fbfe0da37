"""The tables of the reference name exactly what the code has."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from mailroom.cli.main import COMMANDS
from mailroom.corpus.build import BuildSummary, build
from mailroom.evaluation.scores import Scores
from mailroom.mail.message import Message
from mailroom.prompt.form import render_answer
from mailroom.taxonomy import Taxonomy, TaxonomyError
from mailroom.taxonomy.toml import CATEGORY_KEYS, FILE_KEYS, RULE_KEYS
from mailroom.training.run import Trained
from mailroom.training.run_directory import RunState, StepMetrics
from mailroom.triage.report import json_entry
from mailroom.triage.triage import TriagedMessage
from tinsmith.nn.losses import LOSSES

DOCS = Path(__file__).parents[2] / "docs"
FORMATS = (DOCS / "reference" / "data-formats.md").read_text("utf-8")
TAXONOMY = (DOCS / "reference" / "taxonomy.md").read_text("utf-8")
LOSS_PAGE = (DOCS / "reference" / "losses.md").read_text("utf-8")
ARCHITECTURE = (DOCS / "explanation" / "architecture.md").read_text("utf-8")
OWN = (DOCS / "how-to" / "own-categories.md").read_text("utf-8")


def keys_below(page: str, words: str) -> set[str]:
    """The names in code in the first column of the first table below a line with these words."""
    table = re.search(r"^\|.*?(?=\n\n|\Z)", page.partition(words)[2], re.MULTILINE | re.DOTALL)
    assert table is not None, words
    first_cells = [row.split("|")[1] for row in table[0].splitlines()[2:]]
    return {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}


def names(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def test_a_corpus_holds_the_files_and_keys_of_the_reference(tmp_path: Path):
    build("builtin", tmp_path / "corpus", taxonomy=Taxonomy.load("default"))
    line = json.loads((tmp_path / "corpus" / "train.jsonl").read_text().splitlines()[0])

    assert keys_below(FORMATS, "## A corpus folder") == {
        path.name for path in (tmp_path / "corpus").iterdir()
    }
    assert keys_below(FORMATS, "### A line of train.jsonl") == set(line)


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("### run.json", names(RunState) | {"version"}),
        ("### A line of metrics.jsonl", names(StepMetrics)),
        ("### mailroom build", names(BuildSummary)),
        ("### mailroom train", names(Trained) | {"run", "plan"}),
        ("SCORES, with null", names(Scores)),
        ("### mailroom triage", set(json_entry(TriagedMessage(0, "", None, None, "why")))),
    ],
)
def test_a_table_of_keys_is_complete(heading: str, keys: set[str]):
    assert keys_below(FORMATS, heading) == keys


def test_every_command_has_its_json_described():
    described = set(re.findall(r"^### mailroom (\w+)$", FORMATS, re.MULTILINE))

    assert described == set(COMMANDS)


def test_the_keys_of_a_taxonomy_file_are_all_described():
    top = {key.removeprefix("[").partition(".")[0] for key in keys_below(TAXONOMY, "is an error")}

    assert top == set(FILE_KEYS)
    category = keys_below(TAXONOMY, "In a category:") - {"[[categories.KEY.rules]]"}
    assert category | {"rules"} == set(CATEGORY_KEYS)
    assert keys_below(TAXONOMY, "In a rule:") == set(RULE_KEYS)


def test_every_loss_is_documented_with_its_formula_inputs_and_settings():
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## )", LOSS_PAGE, re.MULTILINE | re.DOTALL))

    assert set(sections) == set(LOSSES)
    for name, loss in LOSSES.items():
        in_code = set(re.findall(r"`(\w+)`", sections[name]))
        assert loss.formula in sections[name]
        assert loss.per_token.__doc__, name
        assert loss.inputs | set(loss.settings) <= in_code


@pytest.mark.parametrize("program", ["tinsmith", "mailroom"])
def test_the_architecture_page_names_every_room(program: str):
    source = DOCS.parent / program / "src" / program
    section = ARCHITECTURE.partition(f"## The rooms of {program}")[2].partition("\n## ")[0]
    rooms = {path.stem for path in source.iterdir() if path.suffix == ".py" or _is_package(path)}

    missing = rooms - set(re.findall(r"`([a-z_]+)`", section)) - {"__init__", "errors"}

    assert missing == set()


def _is_package(path: Path) -> bool:
    return (path / "__init__.py").is_file()


def test_the_example_of_own_categories_is_a_taxonomy_and_its_rule_works():
    letters = Taxonomy.from_toml(_toml(OWN))
    answer = letters.answer("orders", Message(subject="Order 7", body="May I be refunded?"))

    assert letters.keys == ("orders", "suppliers", "noise")
    assert answer.actions[0] == "Check the date of purchase"


def test_the_error_that_own_categories_shows_is_the_one_that_a_person_sees():
    wrong = _toml(OWN).replace('priority = "Low"', 'priority = "low"')

    with pytest.raises(TaxonomyError) as caught:
        Taxonomy.from_toml(wrong, source="letters.toml")

    assert f"Error: {caught.value}" in OWN


def test_the_answer_in_the_taxonomy_reference_is_what_the_default_taxonomy_gives():
    default = Taxonomy.load("default")
    message = Message(subject="Good news", body="Your parcel is on its way.")

    assert render_answer(default, default.answer("updates", message)) in TAXONOMY


def _toml(page: str) -> str:
    found = re.search(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]
