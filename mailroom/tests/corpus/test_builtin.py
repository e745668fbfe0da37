"""The built-in data set: seeded, balanced, and fair in its test part."""

from __future__ import annotations

import itertools
import re

import pytest
from mailroom.corpus.build import build
from mailroom.corpus.builtin.generate import CATEGORIES, builtin_rows, read_templates
from mailroom.corpus.corpus import Corpus
from mailroom.corpus.masking import mask
from mailroom.corpus.rows import CorpusError
from mailroom.taxonomy import Taxonomy

DEFAULT = Taxonomy.load("default")
PARTS = ("subject", "body", "opening", "detail", "closing")


def test_it_has_every_category_of_the_default_taxonomy(tmp_path):
    summary = build("builtin", tmp_path / "c", taxonomy=DEFAULT)
    assert (summary.train, summary.test, summary.rejected) == (420, 210, 0)
    assert summary.categories_train == dict.fromkeys(DEFAULT.keys, 60)
    assert summary.categories_test == dict.fromkeys(DEFAULT.keys, 30)
    assert summary.apart == summary.test
    assert (summary.near_duplicates, summary.left_out, summary.warnings) == (0, 0, ())


def test_a_seed_gives_the_same_mail_and_another_other_mail():
    assert builtin_rows(5, DEFAULT) == builtin_rows(5, DEFAULT)
    assert builtin_rows(5, DEFAULT)[0] != builtin_rows(6, DEFAULT)[0]


def every_wording(template: str) -> list[str]:
    """What a template can say: each choice of its alternatives, and `#` for every place."""
    pieces = re.split(r"\(([^()]*\|[^()]*)\)", template)
    options = [piece.split("|") if n % 2 else [piece] for n, piece in enumerate(pieces)]
    return [mask(re.sub(r"\{\w+\}", "#", "".join(one))) for one in itertools.product(*options)]


def phrases(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[n : n + 4]) for n in range(len(words) - 3)}


@pytest.mark.parametrize("category", CATEGORIES)
def test_training_and_test_share_no_template(category):
    templates = read_templates(category)
    train = {w for part in PARTS for t in templates[f"train {part}"] for w in every_wording(t)}
    test = {w for part in PARTS for t in templates[f"test {part}"] for w in every_wording(t)}
    assert len(train) >= 300 and len(test) >= 38
    assert not train & test
    long = [wording for wording in test if len(phrases(wording)) >= 6]
    assert len(long) > 15
    for wording in long:
        closest = max(len(phrases(wording) & phrases(other)) for other in train)
        assert closest <= len(phrases(wording)) / 3, wording


@pytest.mark.parametrize("category", CATEGORIES)
def test_validation_shares_no_template_with_either(category):
    templates = read_templates(category)
    others = {
        wording
        for heading, found in templates.items()
        if heading.startswith(("train", "test"))
        for template in found
        for wording in every_wording(template)
    }
    own = {
        wording
        for part in ("subject", "body")
        for template in templates[f"validation {part}"]
        for wording in every_wording(template)
    }
    assert len(own) >= 14 and not own & others
    for wording in own:
        if len(phrases(wording)) >= 6:
            closest = max(len(phrases(wording) & phrases(other)) for other in others)
            assert closest <= len(phrases(wording)) / 3, wording


def test_a_model_of_the_first_rows_is_calibrated_by_none_that_it_knows(tmp_path):
    summary = build("builtin", tmp_path / "c", taxonomy=DEFAULT)
    corpus = Corpus.load(tmp_path / "c")

    assert summary.validation == len(corpus.validation) == 15 * 7
    held_out = {e.group for e in corpus.held_out(400)}
    assert len(held_out) == 15 * 7 + 20  # and the training rows beyond the first 400
    assert held_out.isdisjoint(e.group for e in (*corpus.train[:400], *corpus.test))


def test_there_are_several_hundred_templates_and_none_stands_twice():
    texts = [
        text
        for category in CATEGORIES
        for heading, found in read_templates(category).items()
        if heading != "sender"
        for text in found
    ]
    assert len(texts) > 500
    assert len(set(texts)) == len(texts)


def test_lengths_and_senders_vary():
    rows, _ = builtin_rows(0, DEFAULT)
    lengths = sorted(len(f"{row.subject} {row.body}".split()) for row in rows)
    assert lengths[0] < 16 and lengths[-1] > 180
    assert 20 < lengths[len(lengths) // 2] < 50
    assert len({row.sender for row in rows}) > 100


def test_no_place_or_choice_is_left_open():
    for part in builtin_rows(0, DEFAULT):
        for row in part:
            assert not re.search(r"[{}|()]", f"{row.sender} {row.subject} {row.body}")


def test_senders_are_addresses_that_cannot_exist():
    rows, _ = builtin_rows(0, DEFAULT)
    assert all(re.fullmatch(r"[^<>]+ <[a-z0-9.-]+@[a-z0-9.-]+\.example>", r.sender) for r in rows)


def test_the_first_rows_hold_some_of_each_category(tmp_path):
    summary = build("builtin", tmp_path / "c", taxonomy=DEFAULT, limit=70)
    assert (summary.train, summary.test) == (70, 210)
    assert min(summary.categories_train.values()) >= 3


def test_a_smaller_taxonomy_gets_its_own_categories(tmp_path):
    summary = build("builtin", tmp_path / "c", taxonomy=Taxonomy.load("reference"))
    assert (summary.train, summary.test, summary.rejected) == (360, 180, 0)


def test_a_taxonomy_of_other_things_is_refused(tmp_path):
    other = Taxonomy.from_toml(
        'name = "other"\n'
        + "".join(f'[categories.{k}]\npriority = "Low"\nactions = ["Read"]\n' for k in "ab")
    )
    with pytest.raises(CorpusError, match="Taxonomy other has none"):
        build("builtin", tmp_path / "c", taxonomy=other)


def test_its_test_part_can_measure_a_model_of_other_data(tmp_path, csv_file, labelled):
    summary = build(csv_file(labelled(60)), tmp_path / "c", taxonomy=DEFAULT, test_data="builtin")
    assert (summary.train, summary.test) == (60, 210)
    assert Corpus.load(tmp_path / "c").test[0].message.sender
