"""What a program of the cookbook is to the runner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from conformance.cookbook import Cookbook


@dataclass(frozen=True)
class Told:
    """What a program did."""

    steps: int | None
    """Optimizer steps; None where nothing is trained."""
    result: str


@dataclass(frozen=True)
class Program:
    name: str
    """The cookbook's file, and which of its ways is meant if there are several."""
    what: str
    run: Callable[[Cookbook], Told]
    """Raises Unexpected, with the reason, if it does not do what it should."""
