"""An export on disk: a PEFT folder with a card, replaced whole, and never over anything else."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailroom.decision.model import Model
from mailroom.errors import MailroomError
from mailroom.export.card import model_card
from mailroom.export.download import download_adapter
from mailroom.service.connect import Service

MARKER = "mailroom.json"
"""In every export: says that the folder is one, and which model it holds."""
MERGED = "merged"


@dataclass(frozen=True, slots=True)
class Export:
    folder: Path
    rank: int
    num_bytes: int


def check_out(out: Path) -> None:
    """Raises MailroomError if writing there would overwrite anything but an older export."""
    if out.is_dir():
        if any(out.iterdir()) and not (out / MARKER).is_file():
            raise MailroomError(
                f"{out} holds other files and no export; give a new folder, so that nothing of "
                "yours is overwritten"
            )
    elif out.exists():
        raise MailroomError(f"{out} is a file; --out must be a folder")


def write_export(
    service: Service,
    model: Model,
    out: Path,
    *,
    scores: Mapping[str, Any],
    say: Callable[[str], None],
    add: Callable[[Path], None] = lambda folder: None,
) -> Export:
    """Download the model's adapter into a PEFT folder with its card and taxonomy.

    Everything is made beside the target and moved in at the end.

    Args:
        scores: of an evaluation, for the card; may be empty.
        add: puts more into the folder before it is moved in.
    """
    check_out(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        fresh = Path(scratch) / "export"
        fresh.mkdir()
        download_adapter(service, model.reference, fresh, say)
        config = _named_config(fresh / "adapter_config.json", model.base_model)
        card = model_card(model, scores, config["r"], config["lora_alpha"])
        (fresh / "README.md").write_text(card, encoding="utf-8")
        (fresh / "taxonomy.toml").write_text(model.taxonomy.to_toml(), encoding="utf-8")
        facts = {
            "model": model.reference,
            "base_model": model.base_model,
            "max_prompt_tokens": model.max_prompt_tokens,
            "training": dict(model.training),
            "scores": dict(scores),
        }
        (fresh / MARKER).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        add(fresh)
        _put_in_place(fresh, out, Path(scratch) / "before")
    size = (out / "adapter_model.safetensors").stat().st_size
    return Export(out, config["r"], size)


def pack(folder: Path) -> Path:
    """The export as FOLDER.tar.gz beside it, without a merged model. Same files, same bytes."""
    packed = folder.with_name(f"{folder.name}.tar.gz")
    fresh = packed.with_name(f".{packed.name}.new")
    with (
        fresh.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for path in sorted(folder.iterdir()):
            if path.is_file():
                archive.add(path, f"{folder.name}/{path.name}", filter=_anonymous)
    fresh.replace(packed)
    return packed


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry


def _named_config(path: Path, base_model: str) -> dict[str, Any]:
    """The adapter's settings, with the base model's name instead of a folder of the server's."""
    config = json.loads(path.read_bytes())
    config["base_model_name_or_path"] = base_model
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    return config


def _put_in_place(fresh: Path, out: Path, aside: Path) -> None:
    if out.exists():
        out.rename(aside)
    try:
        shutil.move(fresh, out)
    except OSError:
        if aside.exists():
            aside.rename(out)
        raise
