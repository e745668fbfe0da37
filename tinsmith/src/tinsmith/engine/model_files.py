"""Reading a model's weights into transformers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from tinsmith.domain.errors import InvalidInputError


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
