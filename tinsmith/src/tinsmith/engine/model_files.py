"""Reading a model's weights into transformers' own classes.

On a CPU, weights that are stored in the compute dtype stay where they are: transformers builds the
model without allocating anything and gives it tensors that are private memory maps of the
safetensors files. Processes that serve the same folder share those pages, and a write would
change a copy of the page, never the file. Weights of another dtype are converted one tensor at a
time into memory of the process's own.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from tinsmith.domain.errors import InvalidInputError


def count_parameters(directory: str | Path) -> int:
    """How many numbers the weights in a folder are, read from the files' headers alone.

    Raises:
        InvalidInputError: no readable safetensors files.
    """
    folder = Path(directory)
    count = 0
    try:
        for path in _weight_files(folder):
            with safe_open(path, framework="numpy") as weights:
                for name in weights.keys():  # noqa: SIM118 -- not a mapping
                    count += math.prod(weights.get_slice(name).get_shape())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InvalidInputError(
            f"cannot read safetensors weights in {str(folder)!r}: {error}"
        ) from error
    return count


def _weight_files(folder: Path) -> list[Path]:
    one, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if one.is_file() or not index.is_file():
        return [one]
    return [
        folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    ]


def load_pretrained(
    directory: str | Path, device: torch.device, dtype: torch.dtype, attention: str
) -> PreTrainedModel:
    """The model with every weight from the checkpoint.

    Args:
        directory: a local folder or a hub id.
        attention: name of the attention function, registered with transformers.

    Raises:
        InvalidInputError: it is not there, not readable, or lacks weights.
    """
    shown_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
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
    return model.to(device)
