"""What an engine tells the front of its work."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
from running_engine import PATIENCE_S, Engine, batch, load_tiny_model, step
from tinsmith.config import Recovery
from tinsmith.domain.engine_report import EngineReport
from tinsmith.domain.ops import RUN_OP_KINDS, ForwardBackward, Sample, SamplingParams
from tinsmith.domain.outcomes import Failed


def hear(engine: Engine, is_last: Callable[[EngineReport], bool]) -> list[EngineReport]:
    """Reports, up to the first of this kind."""
    heard: list[EngineReport] = []
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        message = engine.bell.listen(0.1)
        if message is not None and message["kind"] == "report":
            heard.append(EngineReport.read(message["report"]))
            if is_last(heard[-1]):
                return heard
    raise AssertionError(f"no such report, but {heard[-3:]}")


def test_work_is_reported_when_it_is_done(tmp_path: Path) -> None:
    engine = Engine(tmp_path, load_tiny_model(tmp_path / "model"))
    try:
        for number in range(1, 7, 2):
            engine.submit(number, batch(number))
            engine.submit(number + 1, step())
        engine.submit(7, ForwardBackward(batch().data, "cross_entropy", forward_only=True))
        assert isinstance(engine.submit(8, step()), Failed)
        prompt = np.arange(2, 42, dtype=np.int32)
        sampler = engine.sampler(0, None)
        for number in range(2):
            params = SamplingParams(max_tokens=3, temperature=0.0, stop_at_eos=False)
            engine.submit(number, Sample(prompt, params), sampler)
        reports = hear(engine, lambda report: report.generated_tokens == 6)
    finally:
        engine.stop()

    last = reports[-1]
    assert (last.training_tokens, last.optim_steps) == (3 * 8, 3)
    assert (last.prompt_tokens, last.decode_steps) == (80, 4)
    assert 0 < last.cached_prompt_tokens < 40
    assert (last.requests_waiting, last.sequences_active, last.blocks_used) == (0, 0, 0)
    assert 0 < last.blocks_reusable <= last.blocks_limit
    assert last.ops_waiting == dict.fromkeys(RUN_OP_KINDS, 0)
    (mine,) = last.projects.values()
    assert (mine.ops_waiting, mine.requests_waiting) == (0, 0)
    # One creation, eight ops and two requests, each of which found the engine idle.
    assert mine.wait_turns[0] == sum(mine.wait_turns) == sum(mine.wait_s) == 11
    num_sampled = last.prompt_tokens - last.cached_prompt_tokens + 4
    assert mine.tokens == 4 * 8 + num_sampled
    for earlier, later in pairwise(reports):
        assert earlier != later
        for name in ("prompt_tokens", "cached_prompt_tokens", "training_tokens", "optim_steps"):
            assert getattr(earlier, name) <= getattr(later, name)


def test_what_a_restart_repeated_and_would_repeat_is_reported(tmp_path: Path) -> None:
    base, never = load_tiny_model(tmp_path / "model"), Recovery(max_replay_s=1e6)
    engine = Engine(tmp_path, base, recovery=never)
    try:
        for number in range(1, 7, 2):
            engine.submit(number, batch(number))
            engine.submit(number + 1, step())
        before = hear(engine, lambda report: report.optim_steps == 3)[-1]
    finally:
        engine.crash()
    assert before.unsaved_s > 0
    assert (before.runs_restored, before.replay_s, before.snapshots_written) == (0, 0.0, 0)

    engine = Engine(tmp_path, base, recovery=never, session=engine.session)
    try:
        engine.submit(7, step())  # of an empty window: it fails, and finds the run as it was
        engine.submit(8, batch(8))
        after = hear(engine, lambda report: report.training_tokens == 8)[-1]
    finally:
        engine.stop()
    assert (after.runs_restored, after.runs_inexact) == (1, 0)
    assert after.replay_s > 0
    assert after.unsaved_s > before.unsaved_s


def test_an_engine_reports_its_memory_and_what_a_token_costs_it(tmp_path: Path) -> None:
    engine = Engine(tmp_path, load_tiny_model(tmp_path / "model"))
    try:
        report = hear(engine, lambda report: True)[0]
    finally:
        engine.stop()

    # Two layers: queries and output 32 x 32, keys and values 32 x 16, three of 32 x 48.
    assert report.token_operations == 2 * 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    assert report.device_operations_per_s > 0
    assert 0 < report.resident_bytes <= psutil.virtual_memory().total
    assert report.device_bytes == 0
