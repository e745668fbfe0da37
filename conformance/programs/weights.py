"""The `weights` tools, and whether what they make computes what the server computes."""

from __future__ import annotations

import json

from conformance import datasets
from conformance.cookbook import Cookbook, Unexpected
from conformance.programs.program import Told

LARGEST_GAP = 1e-4
"""Nats between log p of one token computed two ways in 32 bits."""


def download(cookbook: Cookbook) -> Told:
    """Of a training checkpoint, whose files the client accepts only if they are encrypted to its
    key, and of a plain export."""
    cookbook.script(
        "download",
        "conformance.clients.download",
        cookbook.checkpoint_of("sl_loop"),
        "adapter",
        "peft",
    )
    files = sorted(path.name for path in (cookbook.directory / "adapter").iterdir())
    return Told(None, f"{', '.join(files)}; decrypted equal plain")


def merge(cookbook: Cookbook) -> Told:
    cookbook.script(
        "merge",
        "tinker_cookbook.scripts.merge_tinker_adapter_to_hf_model",
        "--hf-model",
        "model",
        "--tinker-adapter-path",
        "adapter",
        "--output-path",
        "merged",
    )
    done = cookbook.script(
        "compare",
        "conformance.clients.compare",
        cookbook.checkpoint_of("sl_loop"),
        "peft",
        "merged",
    )
    gaps = json.loads(done.log.splitlines()[-1])
    return _agreeing(gaps)


def logprobs(cookbook: Cookbook) -> Told:
    done = cookbook.script(
        "agreement",
        "conformance.clients.agreement",
        cookbook.checkpoint_of("sl_loop"),
        datasets.SUMS,
    )
    return _agreeing(json.loads(done.log.splitlines()[-1]))


def _agreeing(gaps: dict[str, float]) -> Told:
    told = ", ".join(f"{name} {gap:.0e}" for name, gap in gaps.items())
    if not all(gap <= LARGEST_GAP for gap in gaps.values()):
        raise Unexpected(f"log p differs by more than {LARGEST_GAP:.0e}: {told}")
    return Told(None, f"largest difference of log p: {told}")
