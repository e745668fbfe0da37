"""Reading a model's weights into transformers' own classes.

On a CPU, weights that are stored in the compute dtype stay where they are: transformers builds the
model without allocating anything and gives it tensors that are private memory maps of the
safetensors files. Processes that serve the same folder share those pages, and a write would
change a copy of the page, never the file. Weights of another dtype are converted one tensor at a
time into memory of the process's own. Weights that are to be quantised are first mapped in the
files' dtype, whatever the compute dtype, so that they are never in memory as a whole.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from tinsmith.domain.errors import InvalidInputError
from tinsmith.engine.quantization import check_quantization, quantize_linears

_STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def count_parameters(directory: str | Path) -> int:
    """How many numbers the weights in a folder are, read from the files' headers alone.

    Raises:
        InvalidInputError: no readable safetensors files.
    """
    return sum(_numbers_by_dtype(Path(directory)).values())


def _stored_dtype(folder: Path) -> torch.dtype:
    """What most of the weights are stored in."""
    numbers = _numbers_by_dtype(folder)
    name = max(numbers, key=numbers.__getitem__, default="none")
    if name not in _STORED:
        raise InvalidInputError(
            f"the weights in {str(folder)!r} are stored as {name}; those that can be quantised "
            f"are stored as {', '.join(_STORED)}"
        )
    return _STORED[name]


def _numbers_by_dtype(folder: Path) -> Counter[str]:
    numbers: Counter[str] = Counter()
    try:
        for path in _weight_files(folder):
            with safe_open(path, framework="numpy") as weights:
                for name in weights.keys():  # noqa: SIM118 -- not a mapping
                    part = weights.get_slice(name)
                    numbers[part.get_dtype()] += math.prod(part.get_shape())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InvalidInputError(
            f"cannot read safetensors weights in {str(folder)!r}: {error}"
        ) from error
    return numbers


def _weight_files(folder: Path) -> list[Path]:
    one, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if one.is_file() or not index.is_file():
        return [one]
    shards: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
    return [folder / name for name in sorted(set(shards.values()))]


def load_pretrained(
    directory: str | Path,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
    quantize: str = "",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The model with every weight from the checkpoint.

    Args:
        directory: a local folder or a hub id.
        attention: name of the attention function, registered with transformers.
        trust_remote_code: whether Python code that comes with the model may run.
        quantize: 8bit or 4bit for the linear layers of a local folder's model; empty for none.

    Raises:
        InvalidInputError: it is not there, not readable, or lacks weights.
    """
    if quantize:
        check_quantization(quantize, device)
    stored = _stored_dtype(Path(directory)) if quantize else dtype
    shown_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=stored,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except KeyError as error:
        if attention not in str(error):
            raise InvalidInputError(
                f"cannot load a model from {str(directory)!r}: unknown {error}"
            ) from error
        raise InvalidInputError(
            f"the model in {str(directory)!r} is of a type whose attention transformers does not "
            "let us replace, so it is not supported"
        ) from error
    except (OSError, ValueError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise InvalidInputError(
                f"the model in {str(directory)!r} comes with Python code of its own, which could "
                "do anything that this server can. If you have read it and trust it: "
                "--trust-remote-code NAME, with the model's name"
            ) from error
        raise InvalidInputError(f"cannot load a model from {str(directory)!r}: {error}") from error
    finally:
        if shown_bar:
            logging.enable_progress_bar()
    model, report = loaded
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise InvalidInputError(
            f"the weights in {str(directory)!r} lack {len(lacking)} of the model's tensors, for "
            f"example {lacking[0]!r}: they belong to another model or are incomplete"
        )
    if quantize:
        quantize_linears(model, quantize, device, dtype)
    return model.to(device)
