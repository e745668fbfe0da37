"""What would be in the way of a server with these settings, found without starting one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tinsmith.base_models import BUILTIN_DIRECTORY
from tinsmith.config import Config
from tinsmith.domain.errors import TinsmithError
from tinsmith.ledger.ledger import Ledger
from tinsmith.ledger.migrations import NEWEST_VERSION, version_of
from tinsmith.listening.server import room_for_connections
from tinsmith.listening.tls import TlsFiles

LITTLE_ROOM_BYTES = 2**30
CLOCK_TOLERANCE = timedelta(hours=1)


def find_obstacles(config: Config) -> list[str]:
    """Sentences for the operator, each with what to do. Changes nothing: an older ledger is left
    as it is."""
    looks = (_built_in_model, _home, _room, _clock, _ledger, _certificate, _connections)
    return [problem for look in looks for problem in look(config)]


def existing_parent(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path


def _built_in_model(config: Config) -> Iterator[str]:
    if not (BUILTIN_DIRECTORY / "model.safetensors").is_file():
        yield "the built-in model's weights are missing; reinstall tinsmith"


def _home(config: Config) -> Iterator[str]:
    place = existing_parent(config.home)
    if not place.is_dir():
        yield f"{config.home} cannot be made: {place} is a file. Choose another --home."
    elif not os.access(place, os.W_OK | os.X_OK):
        yield (
            f"{place} is not writable for this user, and the server keeps its things in "
            f"{config.home}. Change its owner, or choose another --home."
        )


def _room(config: Config) -> Iterator[str]:
    free, least = shutil.disk_usage(existing_parent(config.home)).free, config.limits.min_free_bytes
    told = f"only {free / 2**20:.0f} MiB are free for {config.home}"
    if free < least:
        yield (
            f"{told}, and with less than limits.min_free_bytes ({least / 2**20:.0f} MiB) no new "
            "work is taken in. Free some space, or choose another --home."
        )
    elif free < LITTLE_ROOM_BYTES:
        yield f"{told}; checkpoints may not fit. Choose another --home or free some space."


def _clock(config: Config) -> Iterator[str]:
    written = [file.stat().st_mtime for file in config.home.glob("ledger.db*")]
    newest = datetime.fromtimestamp(max(written, default=0.0), UTC)
    now = datetime.now(UTC)
    if now < newest - CLOCK_TOLERANCE:
        yield (
            f"the clock says {now:%Y-%m-%d %H:%M} UTC, but the ledger was written at "
            f"{newest:%Y-%m-%d %H:%M}. Set it: sessions, keys and checkpoints expire by it."
        )


def _ledger(config: Config) -> Iterator[str]:
    try:
        version = version_of(config.ledger)
        if version is not None and version > NEWEST_VERSION:
            yield (
                f"the ledger has schema {version}, and this tinsmith knows up to {NEWEST_VERSION}: "
                "a newer one wrote it. Use that one, or another --home."
            )
        elif config.is_open_to_others and not (version == NEWEST_VERSION and _has_key(config)):
            yield (
                f"{config.http.public_url or config.host} is open to other machines, and there is "
                "no API key yet: make one with `tinsmith keys create`."
            )
    except TinsmithError as error:  # a database that is away, a driver that is not installed
        yield str(error)


def _has_key(config: Config) -> bool:
    with closing(Ledger.open(config.ledger)) as ledger:
        return any(key.is_good_at(datetime.now(UTC)) for key in ledger.api_keys())


def _certificate(config: Config) -> Iterator[str]:
    if config.http.tls_cert:
        try:
            TlsFiles(Path(config.http.tls_cert), Path(config.http.tls_key))
        except TinsmithError as error:
            yield str(error)


def _connections(config: Config) -> Iterator[str]:
    wanted = config.http.max_connections
    if (room := room_for_connections(wanted)) < wanted:
        yield (
            f"the system lets a process open so few files that {room} connections are possible, "
            f"not {wanted}: raise the limit (ulimit -n; LimitNOFILE= for systemd), or lower "
            "http.max_connections."
        )
