"""A corpus on disk: a folder with both parts, the taxonomy they follow, and how they were made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailroom.corpus.example import Example, from_json
from mailroom.corpus.rows import CorpusError
from mailroom.corpus.split import MAX_VALIDATION, groups_of, outside
from mailroom.taxonomy import Taxonomy

MANIFEST = "corpus.json"
TRAIN = "train.jsonl"
TEST = "test.jsonl"
VALIDATION = "validation.jsonl"
TAXONOMY = "taxonomy.toml"
REJECTED = "rejected.jsonl"
STATISTICS = "statistics.html"

VERSION = 1


@dataclass(frozen=True, slots=True)
class Corpus:
    directory: Path
    taxonomy: Taxonomy
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    manifest: dict[str, Any]
    validation: tuple[Example, ...] = ()
    """In neither of the other parts, nor is any near-duplicate. Often empty."""

    @classmethod
    def load(cls, directory: str | Path) -> Corpus:
        """The corpus that `build` wrote into a folder.

        Raises:
            CorpusError: it is no corpus, or its files are not those that were built.
        """
        directory = Path(directory)
        try:
            manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
        except FileNotFoundError as error:
            raise CorpusError(
                f"{directory} is not a corpus: it has no {MANIFEST}. "
                "Make one with `mailroom build --data SOURCE --out DIR`."
            ) from error
        except (OSError, ValueError) as error:
            raise CorpusError(f"Cannot read {directory / MANIFEST}: {error}.") from error
        if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
            raise CorpusError(
                f"{directory / MANIFEST} is not of version {VERSION}; build the corpus again."
            )
        names = [TRAIN, TEST, TAXONOMY]
        if VALIDATION in manifest.get("files", {}):  # older corpora lack it
            names.append(VALIDATION)
        texts = {name: _verified(directory / name, manifest) for name in names}
        return cls(
            directory=directory,
            taxonomy=Taxonomy.from_toml(texts[TAXONOMY], source=str(directory / TAXONOMY)),
            train=_examples(texts[TRAIN], directory / TRAIN),
            test=_examples(texts[TEST], directory / TEST),
            manifest=manifest,
            validation=_examples(texts.get(VALIDATION, ""), directory / VALIDATION),
        )

    def held_out(self, num_train: int) -> tuple[Example, ...]:
        """Rows that say how sure a model of the first `num_train` training rows (0: all) may be: no
        test row, none that it was trained on, and no near-duplicate of those."""
        if num_train == 0:
            return self.validation[:MAX_VALIDATION]
        trained = groups_of(self.train[:num_train])
        rest = outside(self.train[num_train:], trained)
        return (*self.validation, *rest)[:MAX_VALIDATION]

    @property
    def source(self) -> str:
        """What the data is called: `builtin`, `hf:OWNER/NAME`, or the name of its file, without
        the folders above it, which are nobody else's business."""
        source = str(self.manifest.get("source", ""))
        return source if source.startswith("hf:") else Path(source).name

    @property
    def digest(self) -> str:
        """SHA-256 that changes when training rows, test rows or taxonomy do."""
        files = self.manifest["files"]
        return hashlib.sha256(
            "".join(files[n] for n in (TRAIN, TEST, TAXONOMY)).encode()
        ).hexdigest()


def _verified(path: Path, manifest: dict[str, Any]) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"Cannot read {path}: {error.strerror or error}.") from error
    if hashlib.sha256(data).hexdigest() != manifest.get("files", {}).get(path.name):
        raise CorpusError(
            f"{path} is not the file that was built (its digest differs from {MANIFEST}'s). "
            "Change the source or the taxonomy instead, and build the corpus again."
        )
    return data.decode("utf-8")


def _examples(text: str, path: Path) -> tuple[Example, ...]:
    lines = text.split("\n")[:-1]
    return tuple(from_json(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1))
