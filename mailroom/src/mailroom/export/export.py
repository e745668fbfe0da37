"""All of an export: the PEFT folder, and what else was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailroom.decision.model import Model, find_trained_model
from mailroom.export.base_weights import find_base_weights
from mailroom.export.folder import MERGED, Export, pack, write_export
from mailroom.export.merged import write_merged
from mailroom.export.push import push
from mailroom.service.connect import Service
from mailroom.taxonomy import Taxonomy


@dataclass(frozen=True, slots=True)
class Exported:
    model: Model
    export: Export
    archive: Path | None
    merged: Path | None
    pushed: str | None

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model.reference,
            "base_model": self.model.base_model,
            "out": str(self.export.folder),
            "rank": self.export.rank,
            "adapter_bytes": self.export.num_bytes,
            "archive": str(self.archive) if self.archive else None,
            "merged": str(self.merged) if self.merged else None,
            "pushed": self.pushed,
        }

    def as_text(self) -> str:
        size = f"{self.export.num_bytes / 1e6:.1f} MB"
        lines = [f"{self.export.folder}  adapter of rank {self.export.rank}, {size}"]
        lines += [str(path) for path in (self.archive, self.merged, self.pushed) if path]
        return "\n".join(lines)


def export(
    service: Service,
    reference: str,
    out: Path,
    *,
    base_model: str | None,
    taxonomy: Taxonomy | None,
    scores: Mapping[str, Any],
    merged_dtype: str | None = None,
    archive: bool = False,
    repository: str | None = None,
    is_public: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write an export; see the command's options.

    Args:
        base_model: as the user chose it; where its weights are, for merging.
        merged_dtype: None writes no merged model.
    """
    model = find_trained_model(service, reference, taxonomy=taxonomy, say=say)

    def add_merged(folder: Path) -> None:
        if merged_dtype is not None:
            say("merging the adapter into the base model")
            base = find_base_weights(model.base_model, base_model)
            write_merged(folder, base, folder / MERGED, dtype=merged_dtype)

    written = write_export(service, model, out, scores=scores, say=say, add=add_merged)
    packed = pack(out) if archive else None
    pushed = push(out, repository, is_public=is_public) if repository else None
    return Exported(model, written, packed, out / MERGED if merged_dtype else None, pushed)
