"""Where a base model's weights are on this machine: merging adds the adapter to them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mailroom.config import BUILTIN_BASE_MODEL
from mailroom.errors import MailroomError
from mailroom.service.tokenizers import PUBLIC_HUB


def find_base_weights(base_model: str, choice: str | None) -> Path:
    """The folder of the base model, in Hugging Face layout; fetched from the hub if need be.

    Args:
        base_model: as the service names it.
        choice: what the service was started with: a folder, NAME=FOLDER or a hub id.

    Raises:
        MailroomError: it is nowhere to be had.
    """
    folder = Path((choice or "").rpartition("=")[2]).expanduser()
    if choice and folder.is_dir():
        return folder
    if base_model == BUILTIN_BASE_MODEL:
        return _builtin_folder()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base_model, endpoint=PUBLIC_HUB))
    except Exception as error:  # the hub's library lets through what its HTTP library raises
        raise MailroomError(
            f"merging needs the weights of {base_model}, which the hub does not give out "
            f"({type(error).__name__}); name their folder with --base-model {base_model}=FOLDER"
        ) from error


def _builtin_folder() -> Path:
    """Asked of tinsmith itself, in a process of its own."""
    command = [sys.executable, "-m", "tinsmith.cli", "doctor", "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return Path(json.loads(answer.stdout)["default_model_dir"])
    except (ValueError, KeyError, TypeError) as error:
        raise MailroomError(
            f"the weights of {BUILTIN_BASE_MODEL} come with tinsmith, which does not answer here: "
            f"{answer.stderr.strip()[-300:] or 'no output'}"
        ) from error
