"""Where labelled mail comes from: files of each kind, what is wrong with a row, the Hub."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from mailroom.corpus.example import Example, checked
from mailroom.corpus.files import read_file
from mailroom.corpus.hub import read_hub
from mailroom.corpus.rows import BadRow, Columns, CorpusError, Row
from mailroom.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("reference")
ROWS = [
    {"subject": "Hello", "body": "You won; click\nhere, now", "category": "spam"},
    {"subject": 'A "quoted" one', "body": "Ünïcödé 漢字 →", "category": "forum"},
]


def contents(rows):
    return [(row.subject, row.body, row.category) for row in rows]


def as_csv(rows):
    lines = ["subject,body,category,id"]
    for row in rows:
        fields = ['"' + value.replace('"', '""') + '"' for value in row.values()]
        lines.append(",".join([*fields, "spam_1"]))
    return ("\r\n".join(lines) + "\r\n").encode()


def as_jsonl(rows):
    return "".join(json.dumps({**row, "id": 1}) + "\n" for row in rows).encode()


def as_parquet(rows, path: Path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("gzipped", [False, True])
def test_each_kind_of_file_gives_the_same_rows(tmp_path, kind, gzipped):
    path = tmp_path / f"mail.{kind}"
    if kind == "parquet":
        data = as_parquet(ROWS, path)
    else:
        data = as_csv(ROWS) if kind == "csv" else as_jsonl(ROWS)
    if gzipped:
        path, data = tmp_path / f"mail.{kind}.gz", gzip.compress(data)
    path.write_bytes(data)
    rows = list(read_file(path, Columns()))
    assert contents(rows) == [tuple(row.values()) for row in ROWS]


def test_lines_are_those_of_the_file_even_after_a_body_of_two_lines(tmp_path):
    (tmp_path / "a.csv").write_bytes(as_csv(ROWS))
    (tmp_path / "a.jsonl").write_bytes(b"\n" + as_jsonl(ROWS))
    assert [row.line for row in read_file(tmp_path / "a.csv", Columns())] == [2, 4]
    assert [row.line for row in read_file(tmp_path / "a.jsonl", Columns())] == [1, 2, 3]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + as_csv(ROWS))
    assert len(list(read_file(tmp_path / "a.csv", Columns()))) == 2


def test_other_column_names_are_given_by_parameters(tmp_path):
    (tmp_path / "a.csv").write_text("title,text,label\nHi,there,spam\n")
    columns = Columns(subject="title", body="text", category="label")
    assert contents(read_file(tmp_path / "a.csv", columns)) == [("Hi", "there", "spam")]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_missing_column_names_those_that_are_there(tmp_path, kind):
    row = {"Subject": "Hi", "text": "x", "category": "spam"}
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        as_parquet([row], path)
    else:
        csv = b"Subject,text,category\nHi,x,spam\n"
        path.write_bytes(csv if kind == "csv" else as_jsonl([row]))
    with pytest.raises(CorpusError, match=r"no column 'subject'.*'Subject', 'text', 'category'"):
        list(read_file(path, Columns()))


def test_a_very_long_field_is_read(tmp_path):
    (tmp_path / "a.csv").write_text(f"subject,body,category\nHi,{'word ' * 100_000},spam\n")
    (row,) = read_file(tmp_path / "a.csv", Columns())
    assert isinstance(row, Row) and len(row.body) == 500_000


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"Hi,\xff\xfe oops,spam", "broken encoding: the body is not UTF-8"),
        (b"Hi,a\0b,spam", "the body holds a NUL byte"),
        (b" , ,spam", "empty: neither subject nor body"),
        (b"Hi,there,", "no category"),
        (b"Hi,there,spamm", "unknown category 'spamm'; the nearest is spam"),
        (b"Hi,there", "2 fields where the header has 3"),
        (b"Hi,there,spam,more", "4 fields where the header has 3"),
        (b"", "an empty line"),
    ],
)
def test_a_bad_csv_row_is_found_and_the_rest_is_kept(tmp_path, line, reason):
    (tmp_path / "a.csv").write_bytes(b"subject,body,category\nA,b,spam\n" + line + b"\nC,d,spam\n")
    results = [
        row if isinstance(row, BadRow) else checked(row, TAXONOMY)
        for row in read_file(tmp_path / "a.csv", Columns())
    ]
    (bad,) = (result for result in results if isinstance(result, BadRow))
    assert bad.line == 3 and bad.reason.startswith(reason)
    assert [result.line for result in results if isinstance(result, Example)] == [2, 4]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object but list"),
        (b'{"subject": "a", "body": "b"}', "no category"),
        (b'{"subject": "a", "body": 5, "category": "spam"}', "the body is not text but int"),
        (b'{"subject": null, "body": null, "category": "spam"}', "empty"),
        (b'{"subject": "\\ud800", "body": "b", "category": "spam"}', "broken encoding"),
        (b'{"subject": "\xe4", "body": "b", "category": "spam"}', "broken encoding"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_jsonl_row_is_found(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(ROWS) + line + b"\n" + as_jsonl(ROWS))
    results = [
        row if isinstance(row, BadRow) else checked(row, TAXONOMY)
        for row in read_file(tmp_path / "a.jsonl", Columns())
    ]
    (bad,) = (result for result in results if isinstance(result, BadRow))
    assert bad.line == 3 and bad.reason.startswith(reason)
    assert len(results) == 5


def test_parquet_text_that_is_not_utf8_is_a_bad_row(tmp_path):
    import pyarrow
    import pyarrow.parquet

    bodies = pyarrow.array([b"fine", b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"subject": ["a", "b"], "body": bodies, "category": ["spam", "spam"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    first, second = (
        checked(row, TAXONOMY)
        for row in read_file(tmp_path / "a.parquet", Columns())
        if isinstance(row, Row)
    )
    assert isinstance(first, Example)
    assert isinstance(second, BadRow) and second.reason.startswith("broken encoding")


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.csv.gz", gzip.compress(b"subject,body,category\n" * 99)[:-9], "damaged or cut short"),
        ("a.parquet", b"PAR1 no more", "not a Parquet file"),
        ("a.csv", "subject,body".encode("utf-16"), "UTF-16"),
        ("a.txt", b"x", r"no kind.*\.csv, \.jsonl or \.parquet"),
        ("a.csv", b"", "no column 'subject'"),
        ("a.jsonl", b"", "no column 'subject'"),
        ("a.csv", b"subject,body,category,body\n", "twice"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path, name, data, complaint):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusError, match=complaint):
        list(read_file(tmp_path / name, Columns()))


def test_an_example_is_cleaned_as_mail_is_at_triage():
    example = checked(Row(7, "  Two\nlines ", "A\r\nzero\u200bwidth  \n", "Verify Code"), TAXONOMY)
    assert isinstance(example, Example)
    assert (example.message.subject, example.message.body) == ("Two lines", "A\nzerowidth")
    assert (example.category, example.line) == ("verify_code", 7)
    assert example.completion.startswith("Step 1: Classification → Verify_code\n")


@pytest.mark.parametrize("source", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b:", "hf:../../etc:x y"])
def test_a_hub_source_of_another_form_is_refused(source):
    with pytest.raises(CorpusError, match="hf:OWNER/NAME"):
        list(read_hub(source, Columns()))


def test_a_hub_out_of_reach_says_what_to_do(tmp_path):
    # In a process of its own: the library reads the variable when it is imported.
    code = (
        "from mailroom.corpus.hub import read_hub\n"
        "from mailroom.corpus.rows import Columns\n"
        "list(read_hub('hf:owner/gated-mail', Columns()))\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mailroom.corpus.rows.CorpusError: ")
    assert "owner/gated-mail" in last and "HF_HUB_OFFLINE" in last and "a file" in last
