"""Labelled mail from a data set on the Hugging Face Hub."""

from __future__ import annotations

import re
from typing import Any

from mailroom.corpus.rows import Columns, CorpusError, Row, Rows

PREFIX = "hf:"
DEFAULT_SPLIT = "train"


def read_hub(source: str, columns: Columns) -> Rows:
    """The rows of `hf:OWNER/NAME[:split]`, numbered from 1.

    Raises:
        CorpusError: no such data set or split, no permission, or no network; says what to do.
    """
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?::([\w.\-+\[\]%:]+))?", source)
    if match is None:
        raise CorpusError(f"{source!r} is not of the form hf:OWNER/NAME or hf:OWNER/NAME:SPLIT.")
    name, split = match[1], match[2] or DEFAULT_SPLIT
    table = _load(name, split)
    columns.check(table.column_names, source)
    label_of = getattr(table.features[columns.category], "int2str", None)
    for number, record in enumerate(table, start=1):
        category = record[columns.category]
        if label_of is not None and isinstance(category, int):
            category = label_of(category)  # a class label is stored as its number
        yield Row(number, record[columns.subject], record[columns.body], category)


def _load(name: str, split: str) -> Any:
    import datasets  # here: it takes seconds to import
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        return datasets.load_dataset(name, split=split)
    except (DatasetNotFoundError, GatedRepoError, HfHubHTTPError) as error:
        raise CorpusError(
            f"The Hub does not give out the data set {name}: it is gated, private, or not there. "
            "If it is gated, accept its terms on its page and log in: run `hf auth login` or set "
            "HF_TOKEN. Or download it and give mailroom the file (.csv, .jsonl, .parquet)."
        ) from error
    except Exception as error:
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            # datasets' own word for an unknown split
            raise CorpusError(f"Cannot take split {split!r} of {name}: {error}.") from error
        # No network: an OSError of datasets, or what its HTTP libraries raise, which is none.
        raise CorpusError(
            f"Cannot fetch the data set {name} from the Hugging Face Hub "
            f"({type(error).__name__}). Check the network (and that HF_HUB_OFFLINE is not set), or "
            "give mailroom a file or `builtin` as its source."
        ) from error
