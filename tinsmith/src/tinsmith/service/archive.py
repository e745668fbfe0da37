"""A tar.gz made while it is sent. Formats: POSIX.1-1988 ustar (tarfile), gzip (RFC 1952)."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import BinaryIO

CHUNK_BYTES = 2**20
_GZIP = 16 + zlib.MAX_WBITS


def tar_gz(
    files: Sequence[tuple[str, int]], open_file: Callable[[str], BinaryIO], mtime: float
) -> Iterator[bytes]:
    """The files as one archive, in pieces; never more than a chunk of them in memory.

    Args:
        files: (path in the archive, size in bytes).
        open_file: opens one of the paths, before the first piece; closed here, also if nobody
            reads on.
        mtime: what the archive says about when they were made, in seconds since 1970.

    Raises:
        ValueError: a file is shorter than announced; what was sent so far is no whole archive.
    """
    # Weights hardly shrink, so the fastest level loses nothing.
    packer = zlib.compressobj(level=1, wbits=_GZIP)
    with ExitStack() as opened:
        # All of them before the first piece: they may be deleted while somebody reads slowly.
        sources = [opened.enter_context(open_file(path)) for path, _ in files]
        for (path, size), file in zip(files, sources, strict=True):
            info = tarfile.TarInfo(path)
            info.size, info.mtime, info.mode = size, int(mtime), 0o644
            yield packer.compress(info.tobuf())
            left = size
            while left:
                piece = file.read(min(CHUNK_BYTES, left))
                if not piece:
                    raise ValueError(f"{path} ends {left} bytes early")
                left -= len(piece)
                yield packer.compress(piece)
            yield packer.compress(bytes(-size % tarfile.BLOCKSIZE))
    yield packer.compress(bytes(2 * tarfile.BLOCKSIZE))
    yield packer.flush()
