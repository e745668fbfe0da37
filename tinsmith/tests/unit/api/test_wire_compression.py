import tracemalloc

import pytest
import zstandard
from tinsmith.api.wire.compression import TooLargeError, inflate
from tinsmith.domain.errors import InvalidInputError

BODY = b"forward_backward " * 5000


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_an_uncompressed_body_passes_through(encoding):
    assert inflate(BODY, encoding, 1) == BODY


def test_a_zstd_body_is_inflated_whether_it_declares_its_size_or_not():
    stream = zstandard.ZstdCompressor().compressobj()
    undeclared = stream.compress(BODY) + stream.flush()
    assert inflate(zstandard.compress(BODY), "zstd", len(BODY)) == BODY
    assert inflate(undeclared, "ZSTD", len(BODY)) == BODY


@pytest.mark.parametrize("declares_its_size", [True, False])
def test_a_bomb_is_refused_before_it_goes_off(declares_its_size):
    compressor = zstandard.ZstdCompressor(write_content_size=declares_its_size).compressobj(
        size=2**30 if declares_its_size else -1
    )
    zeros = bytes(2**20)
    bomb = b"".join([*(compressor.compress(zeros) for _ in range(1024)), compressor.flush()])
    tracemalloc.start()
    with pytest.raises(TooLargeError, match="1000000 bytes"):
        inflate(bomb, "zstd", 1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * 2**20  # of 1 GiB


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"", "zstd"),
        (b"not zstd at all", "zstd"),
        (zstandard.compress(BODY)[:-1], "zstd"),
        (zstandard.compress(BODY)[:20], "zstd"),
        (zstandard.compress(BODY) + b"x", "zstd"),
        (zstandard.compress(BODY) + b"x" * 3000, "zstd"),
        (zstandard.compress(BODY) * 2, "zstd"),
        (BODY, "gzip"),
        (BODY, "zstd, gzip"),
    ],
)
def test_anything_but_one_whole_frame_is_refused(body, encoding):
    with pytest.raises(InvalidInputError):
        inflate(body, encoding, 10**9)
