"""What HTTP, ledger and process boundary add to an op: a live server beside a direct call.

The model is negligible, so what is left is the way there and back. Each op is sent when the one
before has been answered, through the SDK and as plain HTTP; `theirs` is the engine called directly
in this process, and `ours` what comes on top of its median, in ms. `limit` is the figure to reach.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from mail_batches import Batch, Task, to_op, to_sdk
from rows import row, run, say
from server import KEY, Server
from shapes import SHAPES, write_model
from tinsmith.api.wire import tinsmith_wire_pb2 as pb

MODEL = "benchmark/negligible"
RANK = 4
LEARNING_RATE = 1e-4
WARM_UP = 10
P50_MS, P95_MS = 8.0, 25.0


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ops", type=int, help="of each kind, after ten to warm up")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    count = WARM_UP + (options.ops or (50 if options.quick else 300))
    shape = SHAPES["negligible"]
    (batch,) = Task(shape.vocab, 1, shortest=24, longest=32, num_shared=8, num_weighted=8).batches()
    with tempfile.TemporaryDirectory() as folder:
        directory = write_model(shape, Path(folder), "float32")
        calls = {"direct": direct_calls(directory, batch)}
        with Server(
            "--model", f"{MODEL}={directory}", "--device", "cpu", "--dtype", "float32"
        ) as server:
            client, close = sdk_client(server.url)
            calls["the SDK"] = sdk_calls(client, batch)
            calls["plain HTTP"] = http_calls(server.url, batch)
            times = timed(calls, count)
            close()
    for kind in ("forward_backward", "optim_step"):
        direct = statistics.median(times["direct", kind])
        for way in ("the SDK", "plain HTTP"):
            added = [seconds - direct for seconds in times[way, kind]]
            percentiles = statistics.quantiles(added, n=20)
            for name, seconds, limit in (
                ("p50", percentiles[9], P50_MS),
                ("p95", percentiles[18], P95_MS),
            ):
                yield row(
                    f"{kind} through {way}, {name}",
                    ours=1e3 * seconds,
                    theirs=1e3 * direct,
                    unit="ms added",
                    limit=limit,
                )


Calls = dict[str, Callable[[], Any]]


def timed(calls: dict[str, Calls], count: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of each call, all ways in turn, so that busy neighbours slow all of them alike."""
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(count):
        for way, kinds in calls.items():
            for kind, call in kinds.items():
                started = time.perf_counter()
                call()
                seconds = time.perf_counter() - started
                if number >= WARM_UP:
                    times.setdefault((way, kind), []).append(seconds)
    say(f"  {count} of each")
    return times


def direct_calls(directory: Path, batch: Batch) -> Calls:
    import torch
    from our_engine import adam, make_trainer

    torch.set_num_threads(1)  # as the server's engine has for a small model
    trainer = make_trainer(directory, "float32", "cpu", RANK)
    op, optim_step = to_op(batch), adam(LEARNING_RATE)
    return {
        "forward_backward": lambda: trainer.forward_backward(op),
        "optim_step": lambda: trainer.optim_step(optim_step),
    }


def sdk_client(url: str) -> tuple[Any, Callable[[], None]]:
    import tinker

    service = tinker.ServiceClient(base_url=url, api_key=KEY)
    client = service.create_lora_training_client(
        MODEL, rank=RANK, seed=0, train_unembed=False
    ).result()
    return client, lambda: service.close("success").result()


def sdk_calls(client: Any, batch: Batch) -> Calls:
    import tinker

    data, adam = to_sdk(batch), tinker.AdamParams(learning_rate=LEARNING_RATE)
    return {
        "forward_backward": lambda: client.forward_backward(data, "cross_entropy").result(),
        "optim_step": lambda: client.optim_step(adam).result(),
    }


def http_calls(url: str, batch: Batch) -> Calls:
    """As a client in any language would: submit, then wait for the future, on one connection."""
    http = httpx.Client(base_url=f"{url}/api/v1", headers={"X-API-Key": KEY}, timeout=60.0)

    def send(call: str, **body: Any) -> httpx.Response:
        response = http.post(f"/{call}", **body)
        if response.status_code != 200:
            raise SystemExit(f"{call} answered {response.status_code}: {response.text[:300]}")
        return response

    def post(call: str, **body: Any) -> dict[str, Any]:
        return send(call, **body).json()

    def answered(call: str, **body: Any) -> httpx.Response:
        response = send("retrieve_future", json=post(call, **body))
        if response.headers["content-type"] == "application/json" and "error" in response.json():
            raise SystemExit(f"{call} failed: {response.text[:300]}")
        return response

    session_id = post("create_session", json={"tags": []})["session_id"]
    lora = {"rank": RANK, "train_unembed": False}
    created = {"session_id": session_id, "model_seq_id": 0, "base_model": MODEL}
    run_id = answered("create_model", json={**created, "lora_config": lora}).json()["model_id"]
    message, numbers = forward_backward_message(run_id, batch), iter(range(1, 10**9))

    def forward_backward() -> None:
        message.seq_id = next(numbers)
        answered("forward_backward", content=message.SerializeToString())

    def optim_step() -> None:
        adam = {"learning_rate": LEARNING_RATE}
        body = {"model_id": run_id, "seq_id": next(numbers), "adam_params": adam}
        answered("optim_step", json=body)

    return {"forward_backward": forward_backward, "optim_step": optim_step}


def forward_backward_message(run_id: str, batch: Batch) -> pb.ForwardBackwardRequest:
    message = pb.ForwardBackwardRequest(model_id=run_id, loss_fn="cross_entropy")
    for given in to_op(batch).data:
        datum = message.data.add()
        datum.model_input.add().encoded_text.tokens = given.tokens.astype("<i4").tobytes()
        for name, array in given.loss_fn_inputs.items():
            tensor = datum.loss_fn_inputs[name]
            tensor.dense = array.tobytes()
            tensor.dtype = pb.DTYPE_INT64 if array.dtype == np.int64 else pb.DTYPE_FLOAT32
            tensor.shape.append(len(array))
    return message


if __name__ == "__main__":
    run("overhead", __doc__, options, measure)
