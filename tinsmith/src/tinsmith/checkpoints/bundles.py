"""Adapters as people hand them over: a folder, or a tar of one, in the PEFT layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tinsmith.checkpoints.archives import read_tar
from tinsmith.checkpoints.store import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST, OPTIMIZER
from tinsmith.domain.errors import InvalidInputError

MAX_JSON_BYTES = 2**20
MAX_WEIGHTS_BYTES = 32 * 2**30
_KNOWN = {
    ADAPTER_CONFIG: MAX_JSON_BYTES,
    ADAPTER_WEIGHTS: MAX_WEIGHTS_BYTES,
    OPTIMIZER: MAX_WEIGHTS_BYTES,
    MANIFEST: MAX_JSON_BYTES,
}
"""The files that are read, and how many bytes each may have."""


@dataclass(frozen=True, slots=True)
class Bundle:
    title: str
    """What the folder or tar is called, without endings."""
    config: Mapping[str, Any]
    """PEFT's settings."""
    weights: bytes
    """adapter_model.safetensors."""
    optimizer: bytes | None
    """optimizer.safetensors, if there is one."""
    manifest: Mapping[str, Any] | None
    """Of a training checkpoint that a tinsmith wrote; the files above are those it names."""


def read_bundle(source: Path) -> Bundle:
    """Whatever adapter is in the folder or tar; nothing is unpacked onto the disk.

    Raises:
        InvalidInputError: it can't be read, holds no adapter or several, what no adapter has, or
            files that are not those of its manifest.
    """
    try:
        files = _of_folder(source) if source.is_dir() else _of_tar(source)
    except OSError as error:
        raise InvalidInputError(
            f"cannot read {source}: {error}. Give a folder or a tar(.gz) with {ADAPTER_CONFIG} "
            f"and {ADAPTER_WEIGHTS}"
        ) from error
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if name not in files:
            raise InvalidInputError(
                f"{source} lacks {name}; an adapter is a folder or tar with {ADAPTER_CONFIG} and "
                f"{ADAPTER_WEIGHTS}, as PEFT's save_pretrained writes it"
            )
    manifest = _read_json(source, MANIFEST, files[MANIFEST]) if MANIFEST in files else None
    if manifest is not None:
        _check(source, manifest, files)
    return Bundle(
        title=source.resolve().name.removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar"),
        config=_read_json(source, ADAPTER_CONFIG, files[ADAPTER_CONFIG]),
        weights=files[ADAPTER_WEIGHTS],
        optimizer=files.get(OPTIMIZER),
        manifest=manifest,
    )


def _of_folder(folder: Path) -> dict[str, bytes]:
    parents = {path.parent for path in folder.rglob(ADAPTER_CONFIG)}
    if len(parents) > 1:
        raise InvalidInputError(_several(folder, sorted(str(parent) for parent in parents)))
    place = parents.pop() if parents else folder
    files = {name: place / name for name in _KNOWN if (place / name).is_file()}
    for name, file in files.items():
        if file.stat().st_size > _KNOWN[name]:
            raise InvalidInputError(f"{file} has too many bytes for such a file")
    return {name: file.read_bytes() for name, file in files.items()}


def _of_tar(path: Path) -> dict[str, bytes]:
    found = {PurePosixPath(name): data for name, data in read_tar(path, _KNOWN).items()}
    parents = {place.parent for place in found if place.name == ADAPTER_CONFIG}
    if len(parents) > 1:
        raise InvalidInputError(_several(path, sorted(str(parent) for parent in parents)))
    return {place.name: data for place, data in found.items() if place.parent in parents}


def _several(source: Path, places: list[str]) -> str:
    return f"{source} holds several adapters ({', '.join(places)}); name one of their folders"


def _check(source: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    listed = manifest.get("files")
    if not isinstance(listed, dict) or not {*files} - {MANIFEST} <= {*listed}:
        raise InvalidInputError(f"{source}: {MANIFEST} is no manifest of a tinsmith checkpoint")
    for name, entry in listed.items():
        wanted = entry.get("sha256") if isinstance(entry, dict) else None
        if name not in files:
            raise InvalidInputError(
                f"{source} lacks {name}, which its {MANIFEST} names; download it again"
            )
        if hashlib.sha256(files[name]).hexdigest() != wanted:
            raise InvalidInputError(
                f"{source}: {name} is not the file that its {MANIFEST} names; download it again, "
                f"or, if it was changed on purpose, remove {MANIFEST}"
            )


def _read_json(source: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InvalidInputError(f"{source}: {name} is not readable JSON: {why}") from error
    if not isinstance(values, dict):
        raise InvalidInputError(f"{source}: {name} must hold a JSON object")
    return values
