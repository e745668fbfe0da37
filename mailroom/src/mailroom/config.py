"""Where mailroom keeps its things, and the names of its defaults."""

from __future__ import annotations

import os
from pathlib import Path

BUILTIN_BASE_MODEL = "tinsmith/tiny"
"""The base model that ships with tinsmith: it shows the mechanics, offline, on a CPU."""
REFERENCE_BASE_MODEL = "Qwen/Qwen3-4B-Instruct-2507"
BETTER_ON_CPU = "Qwen/Qwen3-0.6B"
HOME_VARIABLE = "MAILROOM_HOME"


def home_directory(option: str | Path | None = None) -> Path:
    """The folder for mailroom's own state: the option, else $MAILROOM_HOME, else the platform's.

    Everything of a local training service (ledger, checkpoints, log) lives below it, so a
    `tinker://` path is known wherever the same home is used.
    """
    if chosen := option or os.environ.get(HOME_VARIABLE):
        return Path(chosen).expanduser().resolve()
    import platformdirs  # here, so that `mailroom --help` stays quick

    return Path(platformdirs.user_data_dir("mailroom"))


def served_name(base_model: str) -> str:
    """The name under which a service knows a `--base-model` value.

    A hub id or a service's own name stands for itself; `NAME=FOLDER` is NAME; a folder becomes
    `local/<its name>`, as `tinsmith serve` names it.
    """
    name, separator, _ = base_model.partition("=")
    if separator:
        return name
    folder = Path(base_model).expanduser()
    return f"local/{folder.resolve().name}" if folder.is_dir() else base_model


def absolute_choice(base_model: str) -> str:
    """The same choice of a base model, good in any working directory."""
    name, separator, folder = base_model.partition("=")
    if separator:
        return f"{name}={Path(folder).expanduser().resolve()}"
    folder = Path(base_model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else base_model
