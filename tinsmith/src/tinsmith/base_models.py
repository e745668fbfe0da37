"""Which base models are served, and where their files are. No tensors: the front reads configs."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.records import ServedModel

BUILTIN_NAME = "tinsmith/tiny"
BUILTIN_DIRECTORY = Path(__file__).parent / "models" / "tiny"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HUB_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt")


def resolve(choice: str, trusted: Collection[str] = ()) -> ServedModel:
    """A `--model` value: the built-in name, NAME=FOLDER, a folder, or a hub id.

    A hub id is downloaded into the hub's own cache, or found there.

    Args:
        trusted: names of models whose own code is fetched with them.

    Raises:
        InvalidInputError: no such folder or hub model, or no model in it.
    """
    name, separator, folder = choice.partition("=")
    if separator:
        return _describe(name, Path(folder).expanduser())
    if choice == BUILTIN_NAME:
        return _describe(BUILTIN_NAME, BUILTIN_DIRECTORY)
    directory = Path(choice).expanduser()
    if directory.is_dir():
        return _describe(f"local/{directory.resolve().name}", directory)
    if choice.count("/") != 1 or choice.startswith((".", "/", "~")):
        raise InvalidInputError(
            f"there is no folder {choice!r}; give a folder with a model, NAME=FOLDER, "
            "or a hub id such as Qwen/Qwen3-0.6B"
        )
    return _describe(choice, _download(choice, choice in trusted))


def _download(hub_id: str, with_code: bool) -> Path:
    files: list[str] = [*HUB_FILES, *(["*.py"] if with_code else [])]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=files))
    except RepositoryNotFoundError as error:
        raise InvalidInputError(
            f"the hub has no model {hub_id!r} that you may read; check the name, or log in with "
            "`hf auth login` for gated models"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InvalidInputError(
            f"cannot fetch {hub_id!r}: no network, or the hub refused ({type(error).__name__}). "
            f"Download it once with network, or serve a local copy: --model {hub_id}=FOLDER"
        ) from error


def _describe(name: str, directory: Path) -> ServedModel:
    if not name or ":" in name or name.startswith("/") or name.count("/") > 1:
        raise InvalidInputError(
            f"model name {name!r} is not usable: one or two parts such as org/name, without ':'"
        )
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{str(directory)!r} holds no model: cannot read its config.json ({error})"
        ) from error
    _check_weights(directory)
    text: Any = config.get("text_config", config) if isinstance(config, dict) else {}
    sizes = text.get("vocab_size"), text.get("max_position_embeddings")
    if not all(isinstance(size, int) for size in sizes):
        raise InvalidInputError(
            f"the config.json in {str(directory)!r} names no vocab_size and "
            "max_position_embeddings; only decoder-only language models are served"
        )
    return ServedModel(name, str(directory.resolve()), vocab_size=sizes[0], max_context=sizes[1])


def _check_weights(directory: Path) -> None:
    """Raises InvalidInputError for a folder whose weights are pickles, which run code when they
    are read. What else may be wrong with weights is found when they are loaded."""
    pickles = [path.name for path in directory.iterdir() if path.suffix in PICKLES]
    if pickles and not any(directory.glob("*.safetensors")):
        raise InvalidInputError(
            f"the weights in {str(directory)!r} are pickles ({min(pickles)}), which can run any "
            "code when they are read; only safetensors are. Get the model's safetensors, or "
            "convert it where you trust it: from_pretrained(...).save_pretrained(...)"
        )
