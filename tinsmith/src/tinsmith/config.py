"""Every knob, as frozen dataclasses; one TOML file, checked once at start."""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from tinsmith.domain.errors import InvalidInputError

_T = TypeVar("_T")
DATABASE_VARIABLE = "TINSMITH_DATABASE"
"""Carries `database` past the command line, which every user of the machine can read."""
DTYPES = ("auto", "float32", "bfloat16")
QUANTIZATIONS = ("8bit", "4bit")
LOG_FORMATS = ("text", "json")
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[\w.-]+)(:\d+)?", re.ASCII)
_ADDRESS = re.compile(_ORIGIN.pattern + r"(/[\w./~-]*)?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request may ask for."""

    max_rank: int = 256
    """Largest LoRA rank of a run."""
    max_body_bytes: int = 64 * 2**20
    """Largest request body, before and after decompression."""
    max_json_bytes: int = 16 * 2**20
    """The same for a body in JSON, which takes many times its size in memory."""
    max_num_samples: int = 1024
    """Sequences of one sample request."""
    max_backlog_ops: int = 20_000
    """Unsettled ops in all; beyond it intake answers 429 and the SDK repeats."""
    min_free_bytes: int = 256 * 2**20
    """With less than this free on the disk of the home folder, new work is answered 429 until
    there is room again; what was taken in goes on. 0: never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quotas:
    """What one project may have, unless its own quotas say otherwise (`tinsmith projects set`).
    0: as much as there is."""

    live_runs: int = 1000
    """Runs whose session is not over."""
    resident_adapters: int = 0
    """Of one base model, runs on the device at once, and as many frozen adapters in the sampler's
    memory; the project's least recently used give way."""
    stored_bytes: int = 0
    """Checkpoints on disk, those behind samplers too."""
    tokens_per_minute: int = 0
    """Tokens of requests as they are taken in, training and sampling together: input tokens, and
    of samples also the answers' max_tokens. Beyond it requests wait."""
    queued_ops: int = 10_000
    """Requests that were taken in and have no result yet; beyond it new ones wait."""
    queued_bytes: int = 8 * 2**30
    """The same by what they take in the ledger."""
    request_tokens: int = 0
    """Tokens of one request, counted as for tokens_per_minute."""
    request_datums: int = 0
    """Datums of one forward or forward_backward."""
    sequence_tokens: int = 0
    """Longest sequence, prompt and answer together, if less than the model's context."""
    rank: int = 0
    """Largest LoRA rank, if less than limits.max_rank."""

    def __post_init__(self) -> None:
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if value < 0:
                raise InvalidInputError(f"quota {field_.name} is {value}; the least is 0")

    def overlaid(self, own: Mapping[str, float]) -> Quotas:
        """With a project's own; names that are not here are left out."""
        known = {field_.name for field_ in fields(self)}
        return replace(self, **{name: int(n) for name, n in own.items() if name in known})


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """How one base model is run."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: str = "auto"
    """Precision of the frozen base model: auto, float32 or bfloat16. auto: bfloat16 where the
    device multiplies it fast and the model is not a small one. On a processor that does not,
    bfloat16 halves the memory of the weights, and they are computed with in fp32. Adapters,
    gradients and moments are always fp32."""
    quantize: str = ""
    """8bit or 4bit keep the base model's linear layers in so many bits, which needs the extra
    tinsmith[quantized]. Empty: not at all."""
    trust_remote_code: tuple[str, ...] = ()
    """Names of base models whose own Python code may run in their engine, as some models come
    with some. It can do whatever the server can: read it first."""
    micro_batch_tokens: int = 0
    """Tokens that go through the model at once in training. 0: planned from what is free when the
    engine starts, at most 4096 on a CPU and 16384 on a GPU."""
    activation_bytes: int = 0
    """Memory that a micro-batch's activations may take: beyond it they are computed again instead
    of kept, and a sequence that does not fit even so is refused. 0: what is free at that moment."""
    zero_weight_logprobs: bool = True
    """Whether forward_backward answers log p also of targets whose weight is 0, as the hosted
    service does. Without, they read 0.0 and training is faster: only weighted positions then pay
    for the output layer. forward always answers all."""
    prefill_tokens: int = 0
    """Prompt tokens that go through the model at once in sampling; longer prompts are read in
    parts, between which others get their next tokens. 0: planned from the size of the model, so
    that a pass takes a fraction of a second."""
    kv_cache_bytes: int = 0
    """Memory for keys and values of sequences being generated, and of prompts that may come again.
    0: an eighth of what is free when the engine starts, at most 4 GiB."""
    max_active_sequences: int = 256
    """Sequences decoded together."""
    num_threads: int = 0
    """CPU threads of the engine. 0: as many as there are cores; for small models at most four in
    training and one in sampling."""
    max_cached_adapters: int = 32
    """Frozen adapters kept in memory for sampling; least recently used leave."""
    resident_bytes: int = 0
    """Device memory for the runs of one base model: adapters, gradients and moments. Beyond it the
    least recently used runs are put aside until their next op. 0: a quarter of what is free when
    the engine starts."""
    host_bytes: int = 0
    """Host memory for runs put aside from a CUDA or MPS device; beyond it they go to files below
    the home folder, as they do from a CPU at once. 0: a quarter of what is free at start."""

    def __post_init__(self) -> None:
        for name, allowed in (("dtype", DTYPES), ("quantize", ("", *QUANTIZATIONS))):
            value = getattr(self, name)
            if value not in allowed:
                raise InvalidInputError(
                    f"setting engine.{name} is {value!r}; allowed are "
                    + ", ".join(choice or "nothing" for choice in allowed)
                )
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if isinstance(value, int) and value < 0:
                raise InvalidInputError(f"setting engine.{field_.name} is {value}; the least is 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """How runs come back after a crash, and how far back one can go."""

    max_replay_s: float = 60.0
    """A run is written to disk so often that a restart has no more than this much of the engine's
    time to repeat."""
    keep_snapshots: int = 2
    """The newest ones of each run, whatever they take. At least 1."""
    history_bytes: int = 512 * 2**20
    """What older snapshots of a run, and the requests between them, may take: how far
    `tinsmith runs fork` can go back. 0 keeps none."""
    history_of_ended_runs_s: float = 7 * 86400.0
    """How long the history of a run is kept when its session is over."""

    def __post_init__(self) -> None:
        if self.keep_snapshots < 1:
            raise InvalidInputError(
                f"setting recovery.keep_snapshots is {self.keep_snapshots}; the least is 1"
            )
        for name in ("max_replay_s", "history_bytes", "history_of_ended_runs_s"):
            if getattr(self, name) < 0:
                raise InvalidInputError(
                    f"setting recovery.{name} is {getattr(self, name)}; the least is 0"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """How long things are waited for and kept."""

    poll_hold_s: float = 25.0
    """How long a future's poll is held; the SDK's own timeout is 45 s."""
    session_silence_s: float = 900.0
    """A session that has not been heard of for so long is over, and its runs are released."""
    sample_retention_s: float = 3600.0
    """How long results of sampling can be read again."""
    audit_retention_s: float = 90 * 86400.0
    """How long the audit log keeps an entry."""
    training_result_retention_s: float = 7 * 86400.0
    """The same for what forward and forward_backward answered. The log of a run keeps its losses
    and gradient norms."""
    download_url_ttl_s: float = 3600.0
    """Lifetime of signed download URLs."""
    cors_origins: tuple[str, ...] = ()
    """Web pages that may call the server from a browser, by origin, such as
    https://chat.example or http://localhost:3000. Empty: none."""

    def __post_init__(self) -> None:
        for origin in self.cors_origins:
            # Not "*": without API keys any page in a browser on this machine would be let in.
            if not _ORIGIN.fullmatch(origin):
                raise InvalidInputError(
                    f"setting service.cors_origins has {origin!r}; an origin is a scheme, a host "
                    "and perhaps a port, such as https://chat.example or http://localhost:3000"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Http:
    """How the server is reached, and what it bears from its clients."""

    tls_cert: str = ""
    """PEM file with the server's certificate and those between it and the root. Empty: plain
    HTTP, for this machine or behind a proxy. A renewed file is taken up within a minute."""
    tls_key: str = ""
    """PEM file with the certificate's key, without a passphrase."""
    public_url: str = ""
    """The address from outside, such as https://tinsmith.example, if it is not the one that
    clients name in `Host`: download URLs begin with it. Who comes through a proxy looks local, so
    with this setting nobody counts as local. Empty: there is no proxy."""
    max_connections: int = 4096
    """Open connections; further ones are answered 429 and closed."""
    max_held_polls: int = 3072
    """Requests that wait for a result, in all; further ones are answered 429 and repeated by the
    SDK after a pause."""
    max_held_polls_per_owner: int = 2048
    """The same for one owner."""
    slow_client_s: float = 30.0
    """A client that keeps a request's head or body, or the reading of an answer, waiting for so
    long is cut off; a kilobyte a second is enough to stay."""
    max_bodies_bytes: int = 2**30
    """What all request bodies that are in work may take together; further ones are answered
    429."""

    def __post_init__(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise InvalidInputError("settings http.tls_cert and http.tls_key need each other")
        if self.public_url and not _ADDRESS.fullmatch(self.public_url):
            raise InvalidInputError(
                f"setting http.public_url is {self.public_url!r}; wanted is a scheme, a host and "
                "perhaps a port and a path, such as https://tinsmith.example"
            )
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if isinstance(value, int | float) and value <= 0:
                raise InvalidInputError(f"setting http.{field_.name} is {value}; wanted is more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    home: Path = field(default_factory=lambda: Path(platformdirs.user_data_dir("tinsmith")))
    """Ledger, checkpoints and secrets."""
    database: str = field(default="", repr=False)
    """Where the ledger is kept instead of the home folder: postgresql://USER@HOST/NAME, which
    needs the extra tinsmith[postgresql]. Empty: in a SQLite file in the home folder."""
    host: str = "127.0.0.1"
    """Address to listen on; without API keys only a loopback one."""
    port: int = 8765
    """0 picks a free one."""
    models: tuple[str, ...] = ()
    """Base models: a hub id, a folder, or NAME=FOLDER. Empty: the built-in one."""
    log_format: str = "text"
    """How events are logged to standard error: text, a line for people; json, an object in each
    line."""
    limits: Limits = field(default_factory=Limits)
    quotas: Quotas = field(default_factory=Quotas)
    engine: Engine = field(default_factory=Engine)
    service: Service = field(default_factory=Service)
    http: Http = field(default_factory=Http)
    recovery: Recovery = field(default_factory=Recovery)

    def __post_init__(self) -> None:
        if self.database and not self.database.startswith(("postgresql://", "postgres://")):
            raise InvalidInputError(  # the value is not shown: it may hold a password
                "setting database has to be a URL such as postgresql://USER@HOST/NAME, or nothing"
            )
        if self.log_format not in LOG_FORMATS:
            raise InvalidInputError(
                f"setting log_format is {self.log_format!r}; allowed are {', '.join(LOG_FORMATS)}"
            )

    @property
    def is_open_to_others(self) -> bool:
        """Whether other machines can reach the server, directly or through a proxy."""
        try:
            is_loopback = self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            is_loopback = False
        return bool(self.http.public_url) or not is_loopback

    @property
    def ledger(self) -> str | Path:
        """What `Ledger.open` takes."""
        return self.database or self.home / "ledger.db"

    @classmethod
    def load(cls, path: Path | None) -> Config:
        """Defaults, overlaid by a TOML file of the same shape.

        Raises:
            InvalidInputError: no such file, not TOML, an unknown key or a value of another type.
        """
        if path is None:
            return cls()
        try:
            table = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"cannot read the config file {path}: {error}") from error
        return _overlay(cls(), table, where="")


def _overlay(defaults: _T, table: dict[str, Any], *, where: str) -> _T:
    known = {f.name: getattr(defaults, f.name) for f in fields(defaults)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise InvalidInputError(f"unknown setting {where}{key}; did you mean {where}{near}?")
        default = known[key]
        if is_dataclass(default):
            if not isinstance(value, dict):
                raise InvalidInputError(f"setting {where}{key} is a table, got {value!r}")
            changes[key] = _overlay(default, value, where=f"{where}{key}.")
        else:
            changes[key] = _coerce(f"{where}{key}", value, default)
    return replace(defaults, **changes)  # type: ignore[type-var]


def _coerce(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, Path) and isinstance(value, str):
        return Path(value).expanduser()
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(str(item) for item in value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is type(default):
        return value
    raise InvalidInputError(
        f"setting {name} wants a {type(default).__name__} such as {default!r}, got {value!r}"
    )
