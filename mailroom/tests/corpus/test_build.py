"""Building a corpus: the parts, the counts, the files, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from mailroom.corpus.build import build
from mailroom.corpus.corpus import Corpus
from mailroom.corpus.masking import group_of
from mailroom.corpus.rows import Columns, CorpusError
from mailroom.prompt.form import parse_answer, render_answer
from mailroom.taxonomy import Taxonomy

REFERENCE_DATA = Path(__file__).parents[4] / "shared/data/email_triage_train.csv.gz"


def groups(examples):
    return {group_of(e.message.subject, e.message.body) for e in examples}


def test_the_summary_has_the_shape_that_other_programs_rely_on(
    labelled, csv_file, tmp_path, reference
):
    rows = [*labelled(60), {"id": "", "subject": "", "body": "", "category": "spam"}]
    out = tmp_path / "corpus"
    summary = json.loads(json.dumps(build(csv_file(rows), out, taxonomy=reference).to_json()))
    assert (summary["train"], summary["test"], summary["rejected"]) == (48, 12, 1)
    assert summary["near_duplicates"] == 0
    assert summary["categories"] == dict.fromkeys(reference.keys, 10)
    assert summary["out"] == str(out)


def test_a_corpus_loads_as_it_was_built(labelled, csv_file, tmp_path, reference):
    summary = build(csv_file(labelled(60)), tmp_path / "c", taxonomy=reference)
    corpus = Corpus.load(tmp_path / "c")
    assert corpus.taxonomy == reference
    assert (len(corpus.train), len(corpus.test)) == (summary.train, summary.test)
    for example in (*corpus.train, *corpus.test):
        answer = corpus.taxonomy.answer(example.category, example.message)
        assert example.completion == render_answer(corpus.taxonomy, answer)
        assert parse_answer(example.completion, corpus.taxonomy) == answer


def test_a_corpus_calls_its_data_by_a_name_without_folders(labelled, csv_file, tmp_path, reference):
    build(csv_file(labelled(60)), tmp_path / "c", taxonomy=reference)

    corpus = Corpus.load(tmp_path / "c")

    assert corpus.source == "mail.csv"
    assert replace(corpus, manifest={"source": "builtin"}).source == "builtin"
    assert replace(corpus, manifest={"source": "hf:me/mail:train"}).source == "hf:me/mail:train"


def test_progress_of_a_build_counts_the_rows_it_reads(labelled, csv_file, tmp_path, reference):
    seen: list[int] = []

    build(csv_file(labelled(60)), tmp_path / "c", taxonomy=reference, on_row=seen.append)

    assert seen == list(range(1, 61))


def test_lines_are_prompt_completion_pairs_without_the_columns_that_tell(
    labelled, csv_file, tmp_path, reference
):
    build(csv_file(labelled(60)), tmp_path / "c", taxonomy=reference)
    for name in ("train.jsonl", "test.jsonl"):
        for line in (tmp_path / "c" / name).read_text("utf-8").splitlines():
            record = json.loads(line)
            assert "id" not in record and "text" not in record
            assert record["prompt"].startswith("You are an efficient admin assistant")
            assert f"> Subject: {record['subject']}\n> {record['body']}" in record["prompt"]
            assert not re.search(rf"{record['category']}_\d", record["prompt"])
            assert record["completion"].count("\n") == 3


def test_rows_that_no_part_needs_are_kept_to_calibrate_by(labelled, csv_file, tmp_path, reference):
    source = csv_file(labelled(60, copies=2))

    summary = build(source, tmp_path / "c", taxonomy=reference, limit=40, test_size=20)

    corpus = Corpus.load(tmp_path / "c")
    assert summary.validation == len(corpus.validation) > 0
    assert not groups(corpus.validation) & groups([*corpus.train, *corpus.test])
    assert summary.validation <= summary.unused
    everything = summary.train + summary.test + summary.left_out + summary.unused
    assert everything == 120


def test_what_a_run_does_not_train_on_is_held_out_but_for_near_duplicates(
    labelled, csv_file, tmp_path, reference
):
    build(csv_file(labelled(60, copies=2)), tmp_path / "c", taxonomy=reference)
    corpus = Corpus.load(tmp_path / "c")

    held_out = corpus.held_out(30)

    assert held_out and not groups(held_out) & groups(corpus.train[:30])
    assert corpus.held_out(0) == ()


def test_a_corpus_of_before_there_was_a_validation_part_still_loads(
    labelled, csv_file, tmp_path, reference
):
    build(csv_file(labelled(60)), tmp_path / "c", taxonomy=reference)
    manifest = json.loads((tmp_path / "c/corpus.json").read_text("utf-8"))
    del manifest["files"]["validation.jsonl"]
    (tmp_path / "c/corpus.json").write_text(json.dumps(manifest), "utf-8")
    (tmp_path / "c/validation.jsonl").unlink()

    assert Corpus.load(tmp_path / "c").validation == ()


def test_near_duplicates_are_counted_and_stay_on_one_side(labelled, csv_file, tmp_path, reference):
    summary = build(csv_file(labelled(60, copies=3)), tmp_path / "c", taxonomy=reference)
    corpus = Corpus.load(tmp_path / "c")
    assert summary.near_duplicates == 120
    assert summary.train + summary.test == 180
    assert not groups(corpus.train) & groups(corpus.test)


def test_a_limit_takes_the_first_rows_and_tests_on_the_rest(
    labelled, csv_file, tmp_path, reference
):
    rows = labelled(60, copies=2)
    summary = build(csv_file(rows), tmp_path / "c", taxonomy=reference, limit=40)
    corpus = Corpus.load(tmp_path / "c")
    assert [e.message.body for e in corpus.train] == [row["body"] for row in rows[:40]]
    assert not groups(corpus.train) & groups(corpus.test)
    assert (summary.test, summary.left_out, summary.unused) == (40, 40, 0)


def test_a_test_size_bounds_the_test_part(labelled, csv_file, tmp_path, reference):
    source = csv_file(labelled(60))
    summary = build(source, tmp_path / "c", taxonomy=reference, test_size=6)
    assert (summary.train, summary.test) == (54, 6)
    assert set(summary.categories_test.values()) == {1}
    summary = build(source, tmp_path / "c", taxonomy=reference, limit=30, test_size=12)
    assert (summary.train, summary.test, summary.unused) == (30, 12, 18)


def test_a_test_part_of_its_own_stays_whole(labelled, csv_file, tmp_path, reference):
    train, test = csv_file(labelled(60), "train.csv"), csv_file(labelled(20, copies=2), "test.csv")
    summary = build(train, tmp_path / "c", taxonomy=reference, test_data=test)
    corpus = Corpus.load(tmp_path / "c")
    assert (summary.train, summary.test, summary.left_out) == (40, 40, 20)
    assert not groups(corpus.train) & groups(corpus.test)
    limited = build(train, tmp_path / "c", taxonomy=reference, test_data=test, limit=30)
    assert (limited.train, limited.test) == (30, 40)


def test_rows_unlike_any_in_training_are_marked(labelled, csv_file, tmp_path, reference):
    train = csv_file(labelled(12), "train.csv")
    test = labelled(12)
    for n, row in enumerate(test):
        row["body"] = f"Quite {'another ' * (n + 1)} text"
        if n >= 4:
            row["subject"] = f"Also {'another ' * (n + 1)}"
    summary = build(train, tmp_path / "c", taxonomy=reference, test_data=csv_file(test, "test.csv"))
    assert summary.apart == 8
    assert [e.apart for e in Corpus.load(tmp_path / "c").test] == [False] * 4 + [True] * 8


def test_bad_rows_are_listed_by_line(labelled, csv_file, tmp_path, reference):
    rows = labelled(30)
    rows[4]["category"] = "invoices"
    rows[9]["body"] = rows[9]["subject"] = " "
    source = csv_file(rows)
    summary = build(source, tmp_path / "c", taxonomy=reference)
    lines = (tmp_path / "c" / "rejected.jsonl").read_text("utf-8").splitlines()
    assert summary.rejected == 2
    assert [(json.loads(x)["source"], json.loads(x)["line"]) for x in lines] == [
        (source, 6),
        (source, 11),
    ]


def test_strict_makes_bad_rows_fatal_and_writes_nothing(labelled, csv_file, tmp_path, reference):
    rows = labelled(30)
    for n in range(7):
        rows[n]["category"] = "invoices"
    with pytest.raises(CorpusError, match=r"7 bad rows:(.|\n)*line 2: unknown(.|\n)*and 2 more"):
        build(csv_file(rows), tmp_path / "c", taxonomy=reference, strict=True)
    assert not (tmp_path / "c").exists()


def test_the_same_arguments_give_the_same_bytes(labelled, csv_file, tmp_path, reference):
    source = csv_file(labelled(60, copies=2))
    for name in ("a", "b"):
        build(source, tmp_path / name, taxonomy=reference, seed=3)
    build(source, tmp_path / "other", taxonomy=reference, seed=4)
    for name in ("train.jsonl", "test.jsonl", "taxonomy.toml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert Corpus.load(tmp_path / "a").digest == Corpus.load(tmp_path / "b").digest
    assert Corpus.load(tmp_path / "a").digest != Corpus.load(tmp_path / "other").digest


def test_an_older_corpus_is_replaced_and_other_files_in_it_stay(
    labelled, csv_file, tmp_path, reference
):
    out = tmp_path / "c"
    build(csv_file(labelled(60)), out, taxonomy=reference)
    (out / "notes.txt").write_text("mine")
    build(csv_file(labelled(30)), out, taxonomy=reference)
    assert len(Corpus.load(out).train) == 24
    assert (out / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "mail.csv"]


def test_a_folder_of_other_things_is_not_written_to(labelled, csv_file, tmp_path, reference):
    out = tmp_path / "home"
    out.mkdir()
    (out / "train.jsonl").write_text("mine")
    with pytest.raises(CorpusError, match="holds other files"):
        build(csv_file(labelled(30)), out, taxonomy=reference)
    with pytest.raises(CorpusError, match="is a file"):
        build(csv_file(labelled(30)), tmp_path / "mail.csv", taxonomy=reference)
    assert (out / "train.jsonl").read_text() == "mine"


def test_an_out_that_cannot_be_made_is_a_clear_error(labelled, csv_file, tmp_path, reference):
    with pytest.raises(CorpusError, match="Cannot write the corpus"):
        build(csv_file(labelled(30)), tmp_path / "mail.csv" / "c", taxonomy=reference)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"source": "nowhere.csv"}, "'nowhere.csv'.*builtin"),
        ({"limit": 0}, "--limit must be at least 1, not 0"),
        ({"test_size": -1}, "--test-size must be at least 1, not -1"),
        ({"test_data": "nowhere.csv"}, "'nowhere.csv'"),
        ({"columns": Columns(body="text")}, r"no column 'text'.*--body-column"),
        ({"limit": 99}, "No test rows"),
    ],
)
def test_bad_arguments_are_clear_errors(labelled, csv_file, tmp_path, reference, change, complaint):
    arguments = {"source": csv_file(labelled(30)), "out": tmp_path / "c", "taxonomy": reference}
    with pytest.raises(CorpusError, match=complaint):
        build(**{**arguments, **change})
    assert not (tmp_path / "c").exists()


def test_a_source_without_a_good_row_says_why(labelled, csv_file, tmp_path, reference):
    source = csv_file(labelled(30, category="invoices"))
    with pytest.raises(CorpusError, match=r"No training rows(.|\n)*line 2: unknown category"):
        build(source, tmp_path / "c", taxonomy=reference)


def test_a_category_without_mail_is_a_warning(labelled, csv_file, tmp_path, reference):
    rows = [row for row in labelled(60) if row["category"] != "forum"]
    summary = build(csv_file(rows), tmp_path / "c", taxonomy=reference)
    assert summary.warnings[0] == "The train part has no mail of: forum."


def test_labels_that_disagree_are_a_warning(labelled, csv_file, tmp_path, reference):
    rows = labelled(30) + labelled(1, category="spam")
    summary = build(csv_file(rows), tmp_path / "c", taxonomy=reference)
    assert summary.disagreements == 1
    assert any("more than one category" in warning for warning in summary.warnings)


def test_files_changed_after_the_build_are_noticed(labelled, csv_file, tmp_path, reference):
    out = tmp_path / "c"
    build(csv_file(labelled(30)), out, taxonomy=reference)
    for name in ("train.jsonl", "test.jsonl", "taxonomy.toml"):
        data = (out / name).read_bytes()
        (out / name).write_bytes(data[:-20])
        with pytest.raises(CorpusError, match=f"{name} is not the file that was built"):
            Corpus.load(out)
        (out / name).unlink()
        with pytest.raises(CorpusError, match=f"Cannot read .*{name}"):
            Corpus.load(out)
        (out / name).write_bytes(data)
    (out / "corpus.json").write_text('{"version": 99}')
    with pytest.raises(CorpusError, match="not of version 1"):
        Corpus.load(out)
    (out / "corpus.json").write_text("{")
    with pytest.raises(CorpusError, match="Cannot read"):
        Corpus.load(out)
    with pytest.raises(CorpusError, match=r"not a corpus.*mailroom build"):
        Corpus.load(tmp_path)


def test_the_statistics_page_is_whole_and_shows_mail_as_text(
    labelled, csv_file, tmp_path, reference
):
    rows = labelled(60, copies=2)
    for row in rows:
        row["body"] += " <script>alert('x')</script><img src=http://x.example/y>"
    rows[7]["category"] = "<b>nothing</b>"
    summary = build(csv_file(rows), tmp_path / "c", taxonomy=reference)
    page = Path(summary.page).read_text("utf-8")
    assert page.startswith("<!doctype html>") and page.endswith("</html>\n")
    assert "<script" not in page and "<img" not in page and "<b>" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"<[^>]*(src|href)\s*=|url\(|@import", page)
    assert page.count("<svg") == 1 and "Verify_code" in page


@pytest.mark.skipif(not REFERENCE_DATA.exists(), reason="the reference data is not here")
def test_the_reference_data_gives_400_to_train_and_2000_disjoint_to_test(tmp_path, reference):
    summary = build(str(REFERENCE_DATA), tmp_path / "c", taxonomy=reference, limit=400)
    corpus = Corpus.load(tmp_path / "c")
    assert (summary.train, summary.test, summary.rejected) == (400, 2000, 0)
    assert summary.near_duplicates > 3_000
    assert not groups(corpus.train) & groups(corpus.test)
    assert min(summary.categories_test.values()) > 300


def test_the_default_taxonomy_warns_that_reference_data_has_no_personal_mail(
    labelled, csv_file, tmp_path
):
    source = csv_file(labelled(60))
    summary = build(source, tmp_path / "c", taxonomy=Taxonomy.load("default"))
    assert summary.warnings == (
        "The train part has no mail of: personal.",
        "The test part has no mail of: personal.",
    )
