"""From a source of labelled mail to a corpus folder: read, check, split, write, count."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mailroom.corpus import split
from mailroom.corpus.builtin.generate import BUILTIN, builtin_rows, builtin_validation_rows
from mailroom.corpus.corpus import (
    MANIFEST,
    REJECTED,
    STATISTICS,
    TAXONOMY,
    TEST,
    TRAIN,
    VALIDATION,
    VERSION,
)
from mailroom.corpus.example import Example, checked, to_json
from mailroom.corpus.files import read_file
from mailroom.corpus.hub import PREFIX, read_hub
from mailroom.corpus.rows import BadRow, Columns, CorpusError, Row
from mailroom.corpus.statistics import render_statistics
from mailroom.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildSummary:
    train: int
    test: int
    rejected: int
    """Bad rows; rejected.jsonl names each with its line and reason."""
    near_duplicates: int
    """Good rows that repeat an earlier one, but for digits, codes and URLs."""
    left_out: int
    """Good rows in neither part because a near-duplicate stands on the other side."""
    unused: int
    """Good rows in neither part because both are full."""
    validation: int
    """Rows kept to calibrate a trained model by, of the unused ones or the source's own."""
    apart: int
    """Test rows of which training knows neither the masked subject nor the masked body."""
    disagreements: int
    """Groups of near-duplicates with more than one category."""
    categories: dict[str, int]
    """Rows of both parts together, for each category."""
    categories_train: dict[str, int]
    categories_test: dict[str, int]
    seed: int
    out: str
    page: str
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What `mailroom build --json` prints."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Parts:
    train: list[Example]
    test: list[Example]
    left_out: int
    unused: list[Example]


def build(
    source: str,
    out: str | Path,
    *,
    taxonomy: Taxonomy,
    test_data: str | None = None,
    limit: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    strict: bool = False,
    on_row: Callable[[int], None] = lambda num_read: None,
) -> BuildSummary:
    """Makes a corpus folder of a source's labelled mail.

    The training part is in the source's order, so that `limit` means its first rows; what else is
    drawn follows `seed` alone. Same arguments, same bytes.

    Args:
        source: `builtin`, `hf:OWNER/NAME[:split]`, or a CSV, JSONL or Parquet file.
        out: a folder that is new, empty, or an older corpus, which is then replaced.
        test_data: a source for the test part, which stays whole; training rows with a
            near-duplicate in it are left out. Without it the test part is drawn from `source`.
        limit: the first so many good rows are for training, and the test comes from the rest.
        test_size: at most so many test rows. Left open: 2000, and a fifth of the rows where there
            is no `limit`.
        columns: the names of the columns in `source` and `test_data`.
        strict: a bad row is an error, and nothing is written.
        on_row: hears how many rows of the source are read.

    Raises:
        CorpusError: bad arguments, an unreadable source, no usable rows, or `out` is in use.
    """
    for name, value in (("limit", limit), ("test_size", test_size)):
        if value is not None and value < 1:
            raise CorpusError(f"--{name.replace('_', '-')} must be at least 1, not {value}.")
    out = Path(out)
    _check_out(out)
    columns = columns or Columns()

    rows, test_rows = _read(source, columns, seed, taxonomy)
    if test_data is not None:
        whole, own_part = _read(test_data, columns, seed, taxonomy)
        test_rows = whole if own_part is None else own_part
    examples, bad = _sorted_out(rows, taxonomy, source, on_row)
    own_test: list[Example] | None = None
    if test_rows is not None:
        own_test, bad_test = _sorted_out(test_rows, taxonomy, test_data or source, on_row)
        bad += bad_test
    if strict and bad:
        raise CorpusError(_listed(bad))
    everything = examples + (own_test or [])
    parts = _divided(examples, own_test, limit, test_size, seed)
    if not parts.train or not parts.test:
        missing = "training" if not parts.train else "test"
        raise CorpusError(
            f"No {missing} rows: {len(examples)} good rows in {source}, {len(bad)} rejected. "
            + (_listed(bad) if bad else "Give a larger source, or a test part by --test-data.")
        )
    test = split.mark_apart(parts.test, parts.train)
    if source == BUILTIN:
        validation, _ = _sorted_out(builtin_validation_rows(seed, taxonomy), taxonomy, source)
    else:
        validation = split.draw_validation(parts.unused, [*parts.train, *parts.test], seed)
    summary = BuildSummary(
        train=len(parts.train),
        test=len(test),
        rejected=len(bad),
        near_duplicates=len(everything) - len(split.groups_of(everything)),
        left_out=parts.left_out,
        unused=len(parts.unused),
        validation=len(validation),
        apart=sum(example.apart for example in test),
        disagreements=split.disagreements(everything),
        categories=split.by_category([*parts.train, *test], taxonomy.keys),
        categories_train=split.by_category(parts.train, taxonomy.keys),
        categories_test=split.by_category(test, taxonomy.keys),
        seed=seed,
        out=str(out),
        page=str(out / STATISTICS),
        warnings=(),
    )
    summary = replace(summary, warnings=tuple(_warnings(summary)))
    settings = {
        "source": source,
        "test_data": test_data,
        "limit": limit,
        "test_size": test_size,
        "seed": seed,
        "columns": asdict(columns),
        "taxonomy": {"name": taxonomy.name, "digest": taxonomy.digest},
    }
    texts = {
        TRAIN: _jsonl(to_json(example, taxonomy) for example in parts.train),
        TEST: _jsonl(to_json(example, taxonomy) for example in test),
        VALIDATION: _jsonl(to_json(example, taxonomy) for example in validation),
        TAXONOMY: taxonomy.to_toml(),
        REJECTED: _jsonl(bad),
        STATISTICS: render_statistics(
            source, taxonomy, parts.train, test, bad, asdict(summary), summary.warnings
        ),
    }
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    counts = {k: v for k, v in asdict(summary).items() if k not in {"out", "page", "seed"}}
    manifest = {"version": VERSION, **settings, **counts, "files": digests}
    # The manifest goes last: a folder without a matching one is not a corpus.
    _write(out, {**texts, MANIFEST: json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"})
    return summary


def _read(
    source: str, columns: Columns, seed: int, taxonomy: Taxonomy
) -> tuple[Iterable[Row | BadRow], Iterable[Row | BadRow] | None]:
    """The source's rows, and those of its own test part if it has one."""
    if source == BUILTIN:
        return builtin_rows(seed, taxonomy)
    if source.startswith(PREFIX):
        return read_hub(source, columns), None
    path = Path(source).expanduser()
    if not path.is_file():
        raise CorpusError(
            f"No data {source!r}: it is not a file, nor `{BUILTIN}`, nor `hf:OWNER/NAME`."
        )
    return read_file(path, columns), None


def _sorted_out(
    rows: Iterable[Row | BadRow],
    taxonomy: Taxonomy,
    source: str,
    on_row: Callable[[int], None] = lambda num_read: None,
) -> tuple[list[Example], list[dict[str, Any]]]:
    good: list[Example] = []
    bad: list[dict[str, Any]] = []
    for num_read, row in enumerate(rows, start=1):
        on_row(num_read)
        result = row if isinstance(row, BadRow) else checked(row, taxonomy)
        if isinstance(result, BadRow):
            bad.append({"source": source, "line": result.line, "reason": result.reason})
        else:
            good.append(result)
    return good, bad


def _divided(
    examples: list[Example],
    own_test: list[Example] | None,
    limit: int | None,
    test_size: int | None,
    seed: int,
) -> Parts:
    if own_test is not None:
        free = split.outside(examples, split.groups_of(own_test))
        train = free[:limit]
        return Parts(train, own_test, len(examples) - len(free), free[len(train) :])
    if limit is not None:
        train = examples[:limit]
        free = split.outside(examples[limit:], split.groups_of(train))
        test = split.draw_test(free, test_size or split.MAX_TEST, seed, leave_one=False)
        left_out = len(examples) - len(train) - len(free)
        return Parts(train, test, left_out, split.outside(free, split.groups_of(test)))
    share = max(1, int(len(examples) * split.TEST_SHARE))
    num_test = test_size or min(split.MAX_TEST, share)
    test = split.draw_test(examples, num_test, seed, leave_one=True)
    return Parts(split.outside(examples, split.groups_of(test)), test, 0, [])


def _warnings(summary: BuildSummary) -> Iterable[str]:
    for part, counts in (("train", summary.categories_train), ("test", summary.categories_test)):
        if absent := [key for key, count in counts.items() if not count]:
            yield f"The {part} part has no mail of: {', '.join(absent)}."
    if summary.disagreements:
        yield (
            f"{summary.disagreements} groups of near-duplicates have more than one category; "
            "look at their labels."
        )


def _listed(bad: Sequence[dict[str, Any]]) -> str:
    first = [f"  {row['source']}, line {row['line']}: {row['reason']}" for row in bad[:5]]
    more = [f"  and {len(bad) - 5} more"] if len(bad) > 5 else []
    return "\n".join([f"{len(bad)} bad rows:", *first, *more])


def _jsonl(records: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _check_out(out: Path) -> None:
    if out.is_dir():
        if any(out.iterdir()) and not (out / MANIFEST).is_file():
            raise CorpusError(
                f"{out} holds other files and no corpus; give a new folder, so that nothing of "
                "yours is overwritten."
            )
    elif out.exists():
        raise CorpusError(f"{out} is a file; --out must be a folder.")


def _write(out: Path, texts: dict[str, str]) -> None:
    """First beside the folder, then moved in, so that a full disk leaves nothing half-done."""
    building: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        for name, text in texts.items():
            (building / name).write_text(text, encoding="utf-8", newline="\n")
        out.mkdir(exist_ok=True)
        for name in texts:
            os.replace(building / name, out / name)
    except OSError as error:
        raise CorpusError(
            f"Cannot write the corpus to {out}: {error.strerror or error}."
        ) from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
