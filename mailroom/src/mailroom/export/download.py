"""Getting a trained adapter's files out of a service, as a PEFT folder."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx

from mailroom.decision.run_metadata import STATE_KEY
from mailroom.errors import MailroomError
from mailroom.service.address import EXTERNAL_WEIGHTS, WEIGHTS, Address
from mailroom.service.connect import Service
from mailroom.service.loopback import is_loopback

PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
TEMPORARY_EXPORT_TTL_S = 3600
PIECE_BYTES = 2**20


def download_adapter(service: Service, path: str, folder: Path, say: Callable[[str], None]) -> None:
    """Put the adapter's PEFT files into a folder that exists.

    Sampler weights come as one archive from a service that offers that. Otherwise, and for
    training checkpoints, the service is asked for an export of the training checkpoint that holds
    the same weights, which is fetched by its signed URLs and deleted again.

    Raises:
        MailroomError: no such weights, or the service gives out no files of them.
    """
    address = Address.parse(path)
    if address.kind == EXTERNAL_WEIGHTS:
        _fetch_signed(service, address, folder)
    elif address.kind == WEIGHTS:
        _fetch_exported(service, address, folder, say)
    elif not _fetch_archive(service, address, folder):
        _fetch_exported(service, _training_twin(service, address), folder, say)
    missing = [name for name in PEFT_FILES if not (folder / name).is_file()]
    if missing:
        raise MailroomError(f"the service's export of {path} lacks {', '.join(missing)}")


def _fetch_archive(service: Service, address: Address, folder: Path) -> bool:
    """Fetch and unpack the weights' tar.gz; False where the service has no such thing."""
    url = (
        f"{service.url}/api/v1/training_runs/{quote(address.run_id, safe=':')}"
        f"/checkpoints/{address.kind}/{quote(address.name)}/archive"
    )
    headers = {"X-API-Key": service.api_key} if service.api_key else {}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".archive-") as scratch:
        packed = Path(scratch) / "adapter.tar.gz"
        with _http(service.url) as client, client.stream("GET", url, headers=headers) as answer:
            if answer.status_code in (404, 405, 501):
                return False
            _check(answer, str(address))
            _save(answer, packed)
        unpacked = Path(scratch) / "unpacked"
        unpacked.mkdir()
        try:
            with tarfile.open(packed) as archive:
                archive.extractall(unpacked, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise MailroomError(f"the archive of {address} is damaged: {error}") from error
        _move_peft_files(unpacked, folder)
    return True


def _move_peft_files(unpacked: Path, folder: Path) -> None:
    found = next(iter(sorted(unpacked.rglob(PEFT_FILES[0]))), None)
    if found is not None:
        for name in PEFT_FILES:
            if (found.parent / name).is_file():
                shutil.move(found.parent / name, folder / name)


def _training_twin(service: Service, address: Address) -> Address:
    """The training checkpoint with the same weights, which its own metadata names."""
    listed = service.wait(service.rest().list_checkpoints(address.run_id)).checkpoints
    for checkpoint in listed:
        if checkpoint.tinker_path == str(address):
            state = (checkpoint.user_metadata or {}).get(STATE_KEY)
            if state is not None:
                return Address.parse(state)
    raise MailroomError(
        f"the service gives out no files of {address}, and it does not say which training "
        "checkpoint holds the same weights; export that one, tinker://<run>/weights/<name>"
    )


def _fetch_exported(
    service: Service, address: Address, folder: Path, say: Callable[[str], None]
) -> None:
    say(f"the service makes an export of {address}")
    with service.session() as session:
        client = service.wait(session.create_training_client_from_state(str(address)))
        exported = service.wait(
            client.save_weights_external("mailroom-export", ttl_seconds=TEMPORARY_EXPORT_TTL_S)
        ).path
        try:
            _fetch_signed(service, Address.parse(exported), folder)
        finally:
            service.wait(service.rest().delete_checkpoint_from_tinker_path(exported))


def _fetch_signed(service: Service, address: Address, folder: Path) -> None:
    urls = service.wait(service.rest().get_external_weights_urls(str(address))).urls
    for name in PEFT_FILES:
        if name not in urls:
            continue
        # Signed URLs carry their own permission: the key stays with us.
        with _http(urls[name]) as client, client.stream("GET", urls[name]) as answer:
            _check(answer, f"{name} of {address}")
            _save(answer, folder / name)


@contextmanager
def _http(url: str) -> Iterator[httpx.Client]:
    try:
        with httpx.Client(
            timeout=60, follow_redirects=True, trust_env=not is_loopback(url)
        ) as client:
            yield client
    except httpx.HTTPError as error:
        raise MailroomError(f"the download failed: {error}") from error


def _check(answer: httpx.Response, what: str) -> None:
    if answer.status_code != 200:
        answer.read()
        raise MailroomError(f"the service refused {what}: {answer.status_code} {answer.text[:300]}")


def _save(answer: httpx.Response, path: Path) -> None:
    with path.open("wb") as file:
        for piece in answer.iter_bytes(PIECE_BYTES):
            file.write(piece)
