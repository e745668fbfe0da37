"""Labelled mail from a CSV, JSONL or Parquet file, gzipped or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mailroom.corpus.rows import BadRow, Columns, CorpusError, Row, Rows

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
MAX_FIELD_CHARS = 64 * 2**20


def read_file(path: Path, columns: Columns) -> Rows:
    """The rows of a file, those that cannot be read as BadRow with their line.

    Raises:
        CorpusError: no such file, not a known kind, damaged, or without the columns.
    """
    data = _contents(path)
    kind = _kind(path, data)
    if kind == "parquet":
        return _parquet(data, path, columns)
    # Undecodable bytes become lone surrogates, which the check of each row then finds: one bad
    # line costs that line and not the file.
    text = data.decode("utf-8-sig", errors="surrogateescape")
    return _csv(text, path, columns) if kind == "csv" else _jsonl(text, path, columns)


def _contents(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"{path} is gzipped, but damaged or cut short: {error}.") from error
    except OSError as error:
        raise CorpusError(f"Cannot read {path}: {error.strerror or error}.") from error


def _kind(path: Path, data: bytes) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in {".gz", ".gzip"}:
        suffixes.pop()
    kind = SUFFIXES.get(suffixes[-1]) if suffixes else None
    if kind is None:
        raise CorpusError(
            f"{path} is of no kind that mailroom reads: give a .csv, .jsonl or .parquet file, "
            "each also gzipped (.csv.gz)."
        )
    if kind != "parquet" and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CorpusError(f"{path} is UTF-16; save it as UTF-8.")
    return kind


def _csv(text: str, path: Path, columns: Columns) -> Rows:
    with _wide_fields():
        reader = csv.reader(io.StringIO(text, newline=""))
        header = next(reader, [])
        columns.check(header, str(path))
        if len(set(header)) != len(header):
            raise CorpusError(f"{path} names a column twice: {', '.join(header)}.")
        place = {name: n for n, name in enumerate(header)}
        start = reader.line_num + 1
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                yield BadRow(start, f"not CSV: {error}")
                start = reader.line_num + 1
                continue
            if fields is None:
                return
            if fields and len(fields) != len(header):
                yield BadRow(start, f"{len(fields)} fields where the header has {len(header)}")
            elif fields:
                subject, body, category = (
                    fields[place[name]]
                    for name in (columns.subject, columns.body, columns.category)
                )
                yield Row(start, subject, body, category)
            else:
                yield BadRow(start, "an empty line")
            start = reader.line_num + 1


def _jsonl(text: str, path: Path, columns: Columns) -> Rows:
    # Not splitlines(): a JSON text may hold U+2028 and the like.
    lines = text.removesuffix("\n").split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            records.append(
                BadRow(number, f"not JSON: {error}" if line.strip() else "an empty line")
            )
            continue
        if isinstance(record, dict):
            records.append((number, record))
        else:
            records.append(BadRow(number, f"not a JSON object but {type(record).__name__}"))
    present: dict[str, None] = {}
    for item in records:
        if not isinstance(item, BadRow):
            present.update(dict.fromkeys(item[1]))
    columns.check(list(present), str(path))
    for item in records:
        if isinstance(item, BadRow):
            yield item
        else:
            number, record = item
            yield Row(
                number,
                record.get(columns.subject),
                record.get(columns.body),
                record.get(columns.category),
            )


def _parquet(data: bytes, path: Path, columns: Columns) -> Rows:
    import pyarrow  # comes with datasets; here, since most builds never need it
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        columns.check(file.schema_arrow.names, str(path))
        names = [columns.subject, columns.body, columns.category]
        line = 0
        for batch in file.iter_batches(columns=list(dict.fromkeys(names))):
            subjects, bodies, categories = (_values(batch.column(name)) for name in names)
            for subject, body, category in zip(subjects, bodies, categories, strict=True):
                line += 1
                yield Row(line, subject, body, category)
    except pyarrow.ArrowException as error:
        raise CorpusError(f"{path} is not a Parquet file that can be read: {error}.") from error


def _values(column) -> Iterator[object]:
    for value in column:
        try:
            yield value.as_py()
        except UnicodeDecodeError:  # Parquet promises UTF-8; its writers do not always keep it
            yield value.as_buffer().to_pybytes().decode("utf-8", errors="surrogateescape")


@contextmanager
def _wide_fields() -> Iterator[None]:
    """A mail can be longer than the 128 KiB that the csv module allows a field."""
    before = csv.field_size_limit(MAX_FIELD_CHARS)
    try:
        yield
    finally:
        csv.field_size_limit(before)
