"""Pointing the SDK's `get_tokenizer` at the service's own hub facade.

The SDK loads tokenizers with transformers from the Hugging Face hub, by the model's name. A model
that only the service knows is not there, so the service may offer a small read-only copy of the
hub, and `HF_ENDPOINT` leads there. The variable is read when huggingface_hub is imported.
"""

from __future__ import annotations

import os
import sys

from mailroom.service.loopback import is_loopback, serves_tokenizer

PUBLIC_HUB = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
"""The hub that this process used before any facade: for weights and for publishing."""


def use_hub_facade(url: str, model: str) -> bool:
    """Send this process's hub look-ups to `url`/hub if it serves the model's tokenizer.

    Returns whether it does. Call before transformers or tinker are imported; a huggingface_hub
    that is already there is redirected as well.
    """
    if not serves_tokenizer(url, model):
        return False
    endpoint = f"{url}/hub"
    os.environ["HF_ENDPOINT"] = endpoint
    if is_loopback(url):
        # Offline mode is about the network; the facade needs none.
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "0"
    already_read = {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
    }
    if constants := sys.modules.get("huggingface_hub.constants"):
        for name, value in already_read.items():
            setattr(constants, name, value)
    if hf_api := sys.modules.get("huggingface_hub.hf_api"):
        hf_api.api.endpoint = endpoint
    return True
