"""Adapters from strangers: what is odd about one is refused by its name, and nothing is left."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from tinsmith.checkpoints.archives import MAX_HEADER_BYTES, MAX_MEMBERS
from tinsmith.checkpoints.bundles import MAX_JSON_BYTES, read_bundle
from tinsmith.domain.errors import InvalidInputError

CONFIG = json.dumps({"peft_type": "LORA", "r": 2}).encode()
WEIGHTS = save({"a": np.ones(3, np.float32)})
Change = Callable[[tarfile.TarFile], None]


def add(archive: tarfile.TarFile, name: str, data: bytes, **changes: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(data))


def tar_of(path: Path, change: Change | None = None, config: bytes = CONFIG) -> Path:
    """An adapter that is fine, and what `change` puts beside it."""
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "adapter/adapter_config.json", config)
        if change is not None:
            change(archive)
        add(archive, "adapter/adapter_model.safetensors", WEIGHTS)
    return path


def test_a_plain_tar_is_read_with_what_lies_beside(tmp_path: Path):
    def beside(archive: tarfile.TarFile) -> None:
        add(archive, "adapter", b"", type=tarfile.DIRTYPE)
        add(archive, "adapter/README.md", b"#")

    bundle = read_bundle(tar_of(tmp_path / "mine.tar.gz", beside))
    assert (bundle.title, bundle.weights, bundle.config["r"]) == ("mine", WEIGHTS, 2)
    plain = tmp_path / "plain.tar"
    plain.write_bytes(gzip.decompress((tmp_path / "mine.tar.gz").read_bytes()))
    assert read_bundle(plain).weights == WEIGHTS


@pytest.mark.parametrize(
    "name",
    [
        "../adapter_model.safetensors",
        "adapter/../../x",
        "/etc/passwd",
        "C:/x",
        "c:x",
        "adapter\\..\\x",
        "\\\\host\\share",
        "a\nb",
    ],
)
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InvalidInputError, match="leads out"):
        read_bundle(tar_of(tmp_path / "x.tar.gz", lambda archive: add(archive, name, b"x")))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_a_link_or_device_is_refused(tmp_path: Path, kind: bytes):
    def change(archive: tarfile.TarFile) -> None:
        add(archive, "adapter/manifest.json", b"", type=kind, linkname="/etc/passwd")

    with pytest.raises(InvalidInputError, match="link or a device"):
        read_bundle(tar_of(tmp_path / "x.tar.gz", change))


def test_two_files_of_one_name_are_refused(tmp_path: Path):
    def change(archive: tarfile.TarFile) -> None:
        add(archive, "./adapter/adapter_config.json", b"{}")

    with pytest.raises(InvalidInputError, match="twice"):
        read_bundle(tar_of(tmp_path / "x.tar.gz", change))


def test_a_file_with_holes_is_refused(tmp_path: Path):
    """GNU's old form: a map of the parts that are there, and a size of a terabyte."""
    sparse = bytearray(tarfile.TarInfo("adapter/optimizer.safetensors").tobuf(tarfile.GNU_FORMAT))
    sparse[156:157] = tarfile.GNUTYPE_SPARSE
    sparse[386:398] = sparse[398:410] = b"%011o\0" % 0
    sparse[483:495] = b"\x80" + (2**40).to_bytes(11, "big")
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(sparse) + bytes(1024))
    with pytest.raises(InvalidInputError, match="holes"):
        read_bundle(path)


def test_an_announced_size_is_refused_before_it_is_read(tmp_path: Path):
    header = tarfile.TarInfo("adapter/adapter_model.safetensors")
    header.size = 2**36
    path = tmp_path / "x.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(InvalidInputError, match=r"more than any|too many"):
        read_bundle(path)


@pytest.mark.parametrize("name", ["adapter/adapter_config.json", "adapter/manifest.json"])
def test_a_bomb_in_the_place_of_settings_is_not_inflated(tmp_path: Path, name: str):
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        add(archive, name, bytes(50 * MAX_JSON_BYTES))
    assert_refused_in_little_memory(path, "too many for such a file")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_bomb_in_the_headers_is_not_inflated(tmp_path: Path, kind: bytes):
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "h", bytes(20 * MAX_HEADER_BYTES), type=kind)
    assert_refused_in_little_memory(path, "more headers")


def assert_refused_in_little_memory(path: Path, match: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match=match):
            read_bundle(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_HEADER_BYTES
    finally:
        tracemalloc.stop()


def test_too_many_members_are_refused(tmp_path: Path):
    def change(archive: tarfile.TarFile) -> None:
        for number in range(MAX_MEMBERS + 1):
            add(archive, f"adapter/{number}", b"")

    with pytest.raises(InvalidInputError, match="more than any checkpoint"):
        read_bundle(tar_of(tmp_path / "x.tar.gz", change))


def test_headers_upon_headers_are_refused(tmp_path: Path):
    record = b"11 path=abc\n"
    header = tarfile.TarInfo("h")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    path = tmp_path / "x.tar"
    path.write_bytes((header.tobuf() + record.ljust(512, b"\0")) * 3000)
    with pytest.raises(InvalidInputError):
        read_bundle(path)


def test_a_negative_size_is_refused(tmp_path: Path):
    header = bytearray(tarfile.TarInfo("adapter/adapter_config.json").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = struct.pack(">B", 0xFF) + b"\xff" * 9 + b"\xf8\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(InvalidInputError):
        read_bundle(path)


@pytest.mark.parametrize("keep", [100, 600, 700])
def test_half_an_archive_is_refused(tmp_path: Path, keep: int):
    whole = gzip.decompress(tar_of(tmp_path / "x.tar.gz").read_bytes())
    for path, data in (
        (tmp_path / "half.tar", whole[: keep + 1024]),
        (tmp_path / "half.tar.gz", gzip.compress(whole)[: keep // 4]),
    ):
        path.write_bytes(data)
        with pytest.raises(InvalidInputError):
            read_bundle(path)


@pytest.mark.parametrize(
    "config",
    [
        b"[" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[]",
        b"\xff",
        b'{"r": ' + b"9" * 5000 + b"}",
    ],
)
def test_odd_settings_are_refused(tmp_path: Path, config: bytes):
    with pytest.raises(InvalidInputError, match=r"adapter_config\.json"):
        read_bundle(tar_of(tmp_path / "x.tar.gz", config=config))


def test_settings_too_large_are_refused_in_a_folder_too(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_bytes(b" " * (MAX_JSON_BYTES + 1))
    with pytest.raises(InvalidInputError, match="too many bytes"):
        read_bundle(tmp_path)


def test_a_manifest_must_name_every_file(tmp_path: Path):
    """Else its digests would vouch for less than is taken from it."""
    digest = hashlib.sha256(CONFIG).hexdigest()
    manifest = {"files": {"adapter_config.json": {"sha256": digest}}}

    def change(archive: tarfile.TarFile) -> None:
        add(archive, "adapter/manifest.json", json.dumps(manifest).encode())

    with pytest.raises(InvalidInputError, match="no manifest"):
        read_bundle(tar_of(tmp_path / "x.tar.gz", change))


@pytest.mark.parametrize("data", [b"", b"not a tar", b"PK\x03\x04" + bytes(600), b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InvalidInputError):
        read_bundle(tmp_path / "x")
