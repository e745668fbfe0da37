"""What a run carries in its `user_metadata`: its `tinker://` path alone tells how to use it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mailroom.errors import MailroomError
from mailroom.mail.message import Message
from mailroom.prompt.chat import prompt_text
from mailroom.taxonomy import Taxonomy

TAXONOMY_KEY = "mailroom.taxonomy"
PROMPT_KEY = "mailroom.prompt"
TRAINING_KEY = "mailroom.training"
STATE_KEY = "mailroom.state"
"""Of sampler weights: the path of the training checkpoint that holds the same weights."""
TEMPERATURE_KEY = "mailroom.temperature"
"""Of sampler weights: what their scores are divided by, found on mail that was held out."""


@dataclass(frozen=True, slots=True)
class RunMetadata:
    taxonomy: Taxonomy
    max_prompt_tokens: int
    """The budget that the run's prompts were trimmed to."""
    prompt_digest: str
    """Of the text around a message: a model knows the prompt it was trained with."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the run, for people and for the model card."""


def metadata_for(
    taxonomy: Taxonomy, max_prompt_tokens: int, training: Mapping[str, Any]
) -> dict[str, str]:
    """What to give the service when a run or a checkpoint is made."""
    prompt = {"max_tokens": max_prompt_tokens, "digest": prompt_digest(taxonomy)}
    return {
        TAXONOMY_KEY: taxonomy.to_toml(),
        PROMPT_KEY: json.dumps(prompt),
        TRAINING_KEY: json.dumps(dict(training)),
    }


def read_metadata(user_metadata: Mapping[str, str] | None) -> RunMetadata | None:
    """What `metadata_for` wrote, or None for a run that mailroom did not train.

    Raises:
        MailroomError: it is there and cannot be read.
    """
    if not user_metadata or TAXONOMY_KEY not in user_metadata:
        return None
    taxonomy = Taxonomy.from_toml(user_metadata[TAXONOMY_KEY], source="the run's taxonomy")
    try:
        prompt = json.loads(user_metadata[PROMPT_KEY])
        training = json.loads(user_metadata.get(TRAINING_KEY, "{}"))
        return RunMetadata(taxonomy, int(prompt["max_tokens"]), str(prompt["digest"]), training)
    except (ValueError, KeyError, TypeError) as error:
        raise MailroomError(
            f"the run's metadata cannot be read: {PROMPT_KEY} is {user_metadata.get(PROMPT_KEY)!r}"
        ) from error


def prompt_digest(taxonomy: Taxonomy) -> str:
    """The same as long as the words around a message are the same."""
    return hashlib.sha256(prompt_text(Message(subject="", body=""), taxonomy).encode()).hexdigest()


def read_temperature(user_metadata: Mapping[str, str] | None) -> float:
    """Of sampler weights; 1 where they carry none, or none that could be one."""
    try:
        temperature = float((user_metadata or {}).get(TEMPERATURE_KEY, 1.0))
    except ValueError:
        return 1.0
    return temperature if 0.0 < temperature < math.inf else 1.0
