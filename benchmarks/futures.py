"""Futures through an idle server: small ops by raw HTTP, with SQLite in full durability.

The model is negligible. Each client has a run of its own and a connection that stays open; it
submits a forward_backward or an optim_step, in turn, and asks for its future, so that an op is two
requests, two commits (one when it is logged, one when its outcome is) and the bells between front
and engine.
`limit` is the figure to reach. The client speaks HTTP by hand, as it shares the machine with what
is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mail_batches import Task
from overhead import forward_backward_message
from rows import row, run
from server import KEY, Server
from shapes import SHAPES, write_model

MODEL, SHAPE = "benchmark/negligible", SHAPES["negligible"]
ADAM = {"learning_rate": 1e-4}
(BATCH,) = Task(SHAPE.vocab, 1, shortest=8, longest=8, num_shared=2, num_weighted=4).batches()
CLIENTS = (1, 8, 64)
OPS_PER_S, P95_MS = 400.0, 250.0
"""Wanted of the most clients."""
WARM_UP_S = 2.0


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, help="for each number of clients; 20 if not quick")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    seconds = options.seconds or (2.0 if options.quick else 20.0)
    with tempfile.TemporaryDirectory() as folder:
        directory = write_model(SHAPE, Path(folder), "float32")
        arguments = ("--model", f"{MODEL}={directory}", "--device", "cpu", "--dtype", "float32")
        with Server(*arguments) as server:
            for count in CLIENTS:
                times, elapsed_s = asyncio.run(latencies(server.url, count, seconds))
                is_wanted = count == max(CLIENTS)
                percentiles = statistics.quantiles(times, n=20)
                yield row(
                    f"{count} clients" if count > 1 else "1 client",
                    ours=len(times) / elapsed_s,
                    unit="ops/s",
                    limit=OPS_PER_S if is_wanted else None,
                )
                for name, value in (("p50", percentiles[9]), ("p95", percentiles[18])):
                    yield row(
                        f"{count} clients, {name}" if count > 1 else f"1 client, {name}",
                        ours=1e3 * value,
                        unit="ms from submit to result",
                        limit=P95_MS if is_wanted and name == "p95" else None,
                    )


async def latencies(url: str, count: int, seconds: float) -> tuple[list[float], float]:
    """Seconds of each op that was begun in the time that counts, two of each client at least, and
    how long it took until the last of them had ended."""
    clients = [await Client.connected(url) for _ in range(count)]
    session_id = await clients[0].new_session(f"{count} clients")
    for index, client in enumerate(clients):
        await client.create_run(session_id, index)
    begin = time.perf_counter() + WARM_UP_S
    times: list[float] = []

    async def work(client: Client) -> None:
        num_counted = 0
        while (started := time.perf_counter()) < begin + seconds or num_counted < 2:
            await client.small_op()
            if started >= begin:
                times.append(time.perf_counter() - started)
                num_counted += 1

    await asyncio.gather(*map(work, clients))
    elapsed_s = time.perf_counter() - begin
    for client in clients:
        client.close()
    return times, elapsed_s


class Client:
    """A keep-alive connection, and a run."""

    def __init__(
        self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._host = host
        self._reader = reader
        self._writer = writer
        self._run_id = ""
        self._seq_id = 0

    @classmethod
    async def connected(cls, url: str) -> Client:
        parts = urlsplit(url)
        return cls(parts.netloc, *await asyncio.open_connection(parts.hostname, parts.port))

    async def new_session(self, tag: str) -> str:
        return json.loads(await self._post("create_session", as_json({"tags": [tag]})))[
            "session_id"
        ]

    async def create_run(self, session_id: str, number: int) -> None:
        lora = {"rank": 4, "seed": number, "train_unembed": False}
        body = {"session_id": session_id, "model_seq_id": number, "base_model": MODEL}
        created = await self._answer("create_model", as_json({**body, "lora_config": lora}))
        self._run_id = json.loads(created)["model_id"]
        (batch,) = Task(
            SHAPE.vocab, 1, shortest=8, longest=8, num_shared=2, num_weighted=4
        ).batches()
        self._message = forward_backward_message(self._run_id, batch)

    async def small_op(self) -> None:
        self._seq_id += 1
        if self._seq_id % 2:
            self._message.seq_id = self._seq_id
            await self._answer("forward_backward", self._message.SerializeToString())
        else:
            body = {"model_id": self._run_id, "seq_id": self._seq_id}
            await self._answer("optim_step", as_json({**body, "adam_params": ADAM}))

    async def _answer(self, call: str, body: bytes) -> bytes:
        answer = await self._post("retrieve_future", await self._post(call, body))
        if b'"error"' in answer:
            raise SystemExit(f"{call} failed: {answer!r}")
        return answer

    async def _post(self, call: str, body: bytes) -> bytes:
        head = (
            f"POST /api/v1/{call} HTTP/1.1\r\nHost: {self._host}\r\nX-API-Key: {KEY}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status, *headers = answer.decode().split("\r\n")
        sizes = [line[15:] for line in headers if line[:15].lower() == "content-length:"]
        told = await self._reader.readexactly(int(sizes[0]))
        if status.split()[1] != "200":
            raise SystemExit(f"{call} answered {status}: {told[:300]!r}")
        return told

    def close(self) -> None:
        self._writer.close()


def as_json(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


if __name__ == "__main__":
    run("futures", __doc__, options, measure)
