"""Which base models are served, and where their files are. No tensors: the front reads configs."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.records import ServedModel

BUILTIN_NAME = "tinsmith/tiny"
BUILTIN_DIRECTORY = Path(__file__).parent / "models" / "tiny"
HUB_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt")


def resolve(choice: str) -> ServedModel:
    """A `--model` value: the built-in name, NAME=FOLDER, a folder, or a hub id.

    A hub id is downloaded into the hub's own cache, or found there.

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
    return _describe(choice, _download(choice))


def _download(hub_id: str) -> Path:
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(HUB_FILES)))
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
    text = config.get("text_config", config)
    sizes = text.get("vocab_size"), text.get("max_position_embeddings")
    if not all(isinstance(size, int) for size in sizes):
        raise InvalidInputError(
            f"the config.json in {str(directory)!r} names no vocab_size and "
            "max_position_embeddings; only decoder-only language models are served"
        )
    return ServedModel(name, str(directory.resolve()), vocab_size=sizes[0], max_context=sizes[1])
