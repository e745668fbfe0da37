"""The engine's process: load the base model, prove that it answers, then work."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

import torch
from transformers import AutoTokenizer

from tinsmith import tracing
from tinsmith.checkpoints.snapshots import SnapshotStore
from tinsmith.checkpoints.store import CheckpointStore
from tinsmith.config import DATABASE_VARIABLE, Config
from tinsmith.domain.errors import TinsmithError
from tinsmith.domain.records import ServedModel
from tinsmith.engine.aside_files import file_name
from tinsmith.engine.devices import SMALL_MODEL_PARAMETERS
from tinsmith.engine.heap import trim_heap
from tinsmith.engine.loading import compute_deterministically, load_base_model
from tinsmith.engine.loop import EngineLoop, Threads
from tinsmith.engine.model_files import count_parameters
from tinsmith.engine.project_quotas import ProjectQuotas
from tinsmith.engine.residency import Residency
from tinsmith.engine.sample_request import DecodeText
from tinsmith.ledger.bell import Bell
from tinsmith.ledger.ledger import Ledger
from tinsmith.telemetry import event

SMALL_MODEL_THREADS = 4
PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""


def run_engine(served: ServedModel, config: Config) -> int:
    """Serve one base model until the front says stop or goes away; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_the_front()
    port, _, key = os.environ.pop("TINSMITH_BELL").partition(":")
    home, options = config.home, config.engine
    compute_deterministically()
    started = time.monotonic()
    try:
        base_model, dtype = load_base_model(served, options)
    except (TinsmithError, OSError, ValueError, RuntimeError) as error:
        event("engine_cannot_start", base_model=served.name, why=f"{type(error).__name__}: {error}")
        return 1
    trim_heap()
    threads = _threads(options.num_threads, count_parameters(served.directory))
    ledger = Ledger.open(os.environ.pop(DATABASE_VARIABLE, "") or home / "ledger.db")
    bell = Bell.connect(int(port), key)
    epoch = ledger.acquire_lease(served.name, f"pid {os.getpid()}")
    quotas = ProjectQuotas(ledger, config.quotas)
    aside = home / "aside" / file_name(served.name)
    residency = Residency.planned(base_model, aside, options, quotas)
    traces = tracing.start("engine")
    loop = EngineLoop(
        served=served,
        base_model=base_model,
        ledger=ledger,
        store=CheckpointStore(home / "checkpoints"),
        residency=residency,
        threads=threads,
        bell=bell,
        settings=options,
        snapshots=SnapshotStore(home / "snapshots"),
        recovery=config.recovery,
        lease_epoch=epoch,
        decode_text=_text_decoder(served.directory, served.name in options.trust_remote_code),
        traces=traces,
    )
    bell.ring(
        "ready",
        facts={
            "device": str(base_model.device),
            "dtype": dtype,
            "quantize": options.quantize or "no",
            "load_s": round(time.monotonic() - started, 2),
        },
    )
    try:
        loop.run()
    except EOFError:
        event("front_is_gone", base_model=served.name)
    finally:
        if traces is not None:
            traces.close()
        residency.close()
        ledger.close()
        bell.close()
    return 0


def _end_with_the_front() -> None:
    """On Linux the kernel ends this process as soon as the front is gone, so that no engine of a
    front that was killed is at work beside the next one's. Elsewhere the bell's end says it, after
    the turn that is under way."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _threads(setting: int, num_parameters: int) -> Threads:
    """As many as there are cores, but of small models: their decode steps are over before a second
    thread has woken up, and a micro-batch has little use for more than a few."""
    if setting or num_parameters >= SMALL_MODEL_PARAMETERS:
        count = setting or torch.get_num_threads()
        return Threads(training=count, sampling=count)
    return Threads(training=min(torch.get_num_threads(), SMALL_MODEL_THREADS), sampling=1)


def _text_decoder(directory: str, is_trusted: bool) -> DecodeText | None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=is_trusted)
    except (OSError, ValueError) as error:
        event("no_tokenizer", why=f"{type(error).__name__}; stop strings are not available")
        return None

    def decode(tokens: Sequence[int]) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=False)

    return decode
