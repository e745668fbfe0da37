"""Tells the front now and then how much the engine has done and what waits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict

import psutil
import torch

from tinsmith.domain.engine_report import EngineReport
from tinsmith.domain.ops import RUN_OP_KINDS, ForwardBackward, Op, OptimStep, kind_of
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.project_meter import ProjectMeter
from tinsmith.engine.recovery import Recovery
from tinsmith.engine.sampler import Sampler
from tinsmith.engine.speed import Speed
from tinsmith.ledger.bell import Bell
from tinsmith.ledger.entries import OpRecord

TELL_EVERY_S = 1.0


class Meter:
    """Counts what was trained; the rest stands with the sampler, in the queues and with the
    recovery."""

    def __init__(
        self,
        base: BaseModel,
        sampler: Sampler,
        queues: Mapping[str, Collection[OpRecord]],
        recovery: Recovery,
        bell: Bell,
    ) -> None:
        """`queues` are looked at, run by run, whenever there is something to tell."""
        self._sampler = sampler
        self._queues = queues
        self._recovery = recovery
        self._speed = Speed.of(base)
        self._device = base.device
        self._bell = bell
        self._process = psutil.Process()
        self.projects = ProjectMeter()
        self._training_tokens = 0
        self._optim_steps = 0
        self._told: EngineReport | None = None
        self._told_at = 0.0

    def count(self, op: Op) -> None:
        """Take note of an op that has succeeded."""
        if isinstance(op, ForwardBackward) and not op.forward_only:
            self._training_tokens += sum(len(datum.tokens) for datum in op.data)
        elif isinstance(op, OptimStep):
            self._optim_steps += 1

    def tell(self, *, is_idle: bool) -> None:
        """Ring the numbers if they have changed: about once a second while there is work, and when
        it is done."""
        now = time.monotonic()
        if self._told is not None and not is_idle and now - self._told_at < TELL_EVERY_S:
            return
        report = self._report()
        if report != self._told:
            self._bell.ring("report", report=asdict(report))
        self._told, self._told_at = report, now

    def _report(self) -> EngineReport:
        sampler, counts, recovery = self._sampler, self._sampler.counts, self._recovery
        ops_waiting, ops_of = dict.fromkeys(RUN_OP_KINDS, 0), Counter[str]()
        for queue in self._queues.values():
            for record in queue:
                ops_waiting[kind_of(record.op)] += 1
                ops_of[record.owner] += 1
        requests_of = sampler.waiting_by_project
        return EngineReport(
            prompt_tokens=counts.prompt_tokens,
            cached_prompt_tokens=counts.cached_prompt_tokens,
            generated_tokens=counts.generated_tokens,
            decode_steps=counts.decode_steps,
            put_back=counts.put_back,
            training_tokens=self._training_tokens,
            optim_steps=self._optim_steps,
            requests_waiting=requests_of.total(),
            sequences_active=sampler.num_active,
            blocks_used=sampler.num_blocks_used,
            blocks_reusable=sampler.num_blocks_reusable,
            blocks_limit=sampler.max_blocks,
            block_bytes=sampler.block_bytes,
            token_operations=self._speed.token_operations,
            device_operations_per_s=self._speed.device_operations_per_s,
            resident_bytes=self._process.memory_info().rss,
            device_bytes=self._device_bytes(),
            runs_restored=recovery.num_restored,
            runs_inexact=recovery.num_inexact,
            replay_s=recovery.replay_s,
            snapshots_written=recovery.num_snapshots,
            unsaved_s=recovery.unsaved_s,
            ops_waiting=ops_waiting,
            projects=self.projects.reports(ops_of, requests_of),
        )

    def _device_bytes(self) -> int:
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0
