from __future__ import annotations

import gzip
import io
import json
import os
import stat
import tarfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tinsmith.config import Service as Settings
from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.errors import AccessError, InvalidInputError, NotFoundError, StorageError
from tinsmith.service.archive import CHUNK_BYTES, tar_gz
from tinsmith.service.signing import Signer

PEFT = ["adapter_config.json", "adapter_model.safetensors"]
WHOLE = [*PEFT, "optimizer.safetensors", "manifest.json"]


def test_checkpoints_are_listed_for_their_owner(house):
    run_id = house.run()
    first, second = house.saved(run_id, "a", 1), house.saved(run_id, "b", 2)
    checkpoints = house.service.checkpoints

    page, total = checkpoints.list(house.anna, limit=1, offset=0)

    assert ([c.address for c in page], total) == ([second], 2)
    assert [c.address for c in checkpoints.list_of_run(house.anna, run_id)] == [second, first]
    assert checkpoints.list(house.boris, limit=9, offset=0) == ([], 0)
    with pytest.raises(NotFoundError):
        checkpoints.list_of_run(house.boris, run_id)


def test_what_is_published_can_be_read_but_not_changed_by_others(house):
    address = house.saved(house.run())
    checkpoints = house.service.checkpoints
    with pytest.raises(NotFoundError):
        checkpoints.get(house.boris, address)

    checkpoints.publish(house.anna, address)

    assert checkpoints.weights_info(house.boris, str(address)).is_public
    assert list(checkpoints.files(house.boris, address)) == WHOLE
    for change in (
        lambda: checkpoints.delete(house.boris, address),
        lambda: checkpoints.publish(house.boris, address),
        lambda: checkpoints.unpublish(house.boris, address),
        lambda: checkpoints.set_ttl(house.boris, address, 3600),
    ):
        with pytest.raises(NotFoundError):
            change()
    checkpoints.unpublish(house.anna, address)
    with pytest.raises(NotFoundError):
        checkpoints.files(house.boris, address)


def test_deleting_takes_the_bytes_along(house):
    address = house.saved(house.run())

    house.service.checkpoints.delete(house.anna, address)

    with pytest.raises(NotFoundError):
        house.service.checkpoints.delete(house.anna, address)
    with pytest.raises(NotFoundError):
        house.store.files(address)


def test_a_time_to_live_is_set_and_taken_back(house):
    address = house.saved(house.run())
    checkpoints = house.service.checkpoints

    checkpoints.set_ttl(house.anna, address, 7200)
    expires_at = checkpoints.get(house.anna, address).expires_at
    assert expires_at is not None
    assert abs(expires_at - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=1)
    with pytest.raises(InvalidInputError, match="ttl_seconds 5"):
        checkpoints.set_ttl(house.anna, address, 5)
    checkpoints.set_ttl(house.anna, address, None)
    assert checkpoints.get(house.anna, address).expires_at is None


def test_an_expired_checkpoint_is_not_there_though_not_swept_yet(house):
    past = datetime.now(UTC) - timedelta(seconds=1)
    address = house.saved(house.run(), expires_at=past)

    with pytest.raises(NotFoundError):
        house.service.checkpoints.get(house.anna, address)
    with pytest.raises(NotFoundError):
        house.service.checkpoints.archive(house.anna, address)


def test_a_signed_file_can_be_fetched_without_a_key(house):
    address = house.saved(house.run())

    signed, expires_at = house.service.checkpoints.sign(house.anna, address)

    assert [file.path for file in signed] == WHOLE
    assert expires_at > datetime.now(UTC)
    for file in signed:
        opened, size = house.service.checkpoints.open_signed(
            address, file.path, file.expires, file.signature
        )
        with opened:
            assert len(opened.read()) == size == file.size_bytes
    with pytest.raises(NotFoundError):
        house.service.checkpoints.sign(house.boris, address)


def test_a_signature_opens_what_it_was_made_for_and_nothing_else(house):
    run_id = house.run()
    address, other = house.saved(run_id, "a", 1), house.saved(run_id, "b", 2)
    (config, weights, *_), _ = house.service.checkpoints.sign(house.anna, address)

    for where, path, expires, signature in (
        (other, config.path, config.expires, config.signature),
        (address, weights.path, config.expires, config.signature),
        (address, "optimizer.safetensors", config.expires, config.signature),
        (address, "../../../ledger.db", config.expires, config.signature),
        (address, config.path, config.expires + 1, config.signature),
        (address, config.path, config.expires, ""),
        (address, config.path, config.expires, "é" * 64),
    ):
        with pytest.raises(AccessError, match="not one that this server has signed"):
            house.service.checkpoints.open_signed(where, path, expires, signature)


def test_a_link_ends_with_its_time_or_its_checkpoint(house):
    address = house.saved(house.run())
    brief = house.build(config=replace(house.config, service=Settings(download_url_ttl_s=-1)))
    (late, *_), _ = brief.checkpoints.sign(house.anna, address)
    (good, *_), _ = house.service.checkpoints.sign(house.anna, address)

    with pytest.raises(AccessError, match="expired"):
        house.service.checkpoints.open_signed(address, late.path, late.expires, late.signature)
    house.service.checkpoints.delete(house.anna, address)
    with pytest.raises(NotFoundError):
        house.service.checkpoints.open_signed(address, good.path, good.expires, good.signature)
    brief.close()


def test_a_link_does_not_outlive_the_checkpoint_it_leads_to(house):
    address = house.saved(house.run())
    (config, *_), _ = house.service.checkpoints.sign(house.anna, address)
    house.ledger.set_expiry(address, datetime.now(UTC) - timedelta(seconds=1))

    with pytest.raises(NotFoundError):
        house.service.checkpoints.open_signed(
            address, config.path, config.expires, config.signature
        )


def test_the_archive_of_a_training_checkpoint_holds_all_of_it_byte_for_byte(house):
    address = house.saved(house.run())

    data = b"".join(house.service.checkpoints.archive(house.anna, address))

    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        assert archive.getnames() == WHOLE
        for name in WHOLE:
            packed = archive.extractfile(name)
            assert packed is not None
            with house.store.open(address, name) as original:
                assert packed.read() == original.read()
        config = archive.extractfile(PEFT[0])
        assert config is not None
        assert json.load(config) == {"r": 4}
    with pytest.raises(NotFoundError):
        house.service.checkpoints.archive(house.boris, address)
    with pytest.raises(NotFoundError):
        house.service.checkpoints.archive(house.anna, replace(address, name="b"))


def test_an_archive_is_made_in_pieces():
    sizes = {"a": 0, "b": 511, "c": 512, "d": 3 * CHUNK_BYTES + 7}
    content = {path: os.urandom(size) for path, size in sizes.items()}
    files = list(sizes.items())

    pieces = list(tar_gz(files, lambda path: io.BytesIO(content[path]), mtime=1.7e9))

    assert max(map(len, pieces)) < 2 * CHUNK_BYTES
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces)), mode="r:gz") as archive:
        for member in archive:
            packed = archive.extractfile(member)
            assert packed is not None
            assert packed.read() == content[member.name]
            assert (member.mtime, member.mode) == (1_700_000_000, 0o644)


def test_an_archive_closes_its_file_when_nobody_reads_on():
    file = io.BytesIO(bytes(4 * CHUNK_BYTES))
    pieces = tar_gz([("a", 4 * CHUNK_BYTES)], lambda path: file, mtime=0)
    next(pieces), next(pieces)

    pieces.close()  # type: ignore[attr-defined]

    assert file.closed


def test_an_archive_of_a_file_that_shrank_ends_in_an_error():
    pieces = tar_gz([("a", 10)], lambda path: io.BytesIO(b"short"), mtime=0)

    with pytest.raises(ValueError, match="a ends 5 bytes early"):
        gzip.decompress(b"".join(pieces))


def test_the_secret_is_private_and_stays_the_same(tmp_path: Path):
    file = tmp_path / "home" / "secret"
    first = Signer(file)

    signature = first.sign("a", 1)

    if os.name != "nt":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == ["secret"]
    assert Signer(file).is_valid(signature, "a", 1)
    assert not Signer(tmp_path / "other").is_valid(signature, "a", 1)
    assert not first.is_valid(first.sign("ab", "c"), "a", "bc")


def test_a_damaged_secret_says_what_to_do(tmp_path: Path):
    file = tmp_path / "secret"
    file.write_bytes(b"short")

    with pytest.raises(StorageError, match=r"secret .*damaged \(5 bytes.*delete it"):
        Signer(file)
    blocked = tmp_path / "a-file"
    blocked.touch()
    with pytest.raises(StorageError, match="home folder writable"):
        Signer(blocked / "secret")


def test_an_address_that_is_none_is_told(house):
    with pytest.raises(InvalidInputError, match="not a checkpoint address"):
        house.service.checkpoints.weights_info(house.anna, "tinker://x/y")
    with pytest.raises(NotFoundError):
        house.service.checkpoints.get(
            house.anna, CheckpointAddress.parse("tinker://x:train:0/weights/a")
        )
