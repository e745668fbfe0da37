"""Compressed bodies, with a bound on what they inflate to."""

from __future__ import annotations

import zstandard

from tinsmith.domain.errors import InvalidInputError

STEP_BYTES = 64
"""Input fed at a time. A zstd block of four bytes can stand for 128 KiB, so one step can grow the
output by 2 MiB at most before we look again."""


class TooLargeError(InvalidInputError):
    """The body is larger than this server takes."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            f"the request body exceeds {max_bytes} bytes (after decompression, if compressed); "
            "send fewer or shorter datums per request"
        )


def inflate(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body as it was before `Content-Encoding` was applied.

    Raises:
        TooLargeError: it would be larger than max_bytes; little more than that was inflated.
        InvalidInputError: an encoding other than zstd, or not one whole frame of it.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding != "zstd":
        raise InvalidInputError(
            f"Content-Encoding {encoding[:40]!r} is not supported; send zstd or no compression"
        )
    try:
        declared = zstandard.get_frame_parameters(body).content_size
        if declared != zstandard.CONTENTSIZE_UNKNOWN and declared > max_bytes:
            raise TooLargeError(max_bytes)
        inflater = zstandard.ZstdDecompressor().decompressobj()
        parts, size = [], 0
        for start in range(0, len(body), STEP_BYTES):
            if inflater.eof:
                raise InvalidInputError("there are bytes after the end of the zstd body")
            part = inflater.decompress(body[start : start + STEP_BYTES])
            size += len(part)
            if size > max_bytes:
                raise TooLargeError(max_bytes)
            parts.append(part)
    except zstandard.ZstdError as error:
        raise InvalidInputError(f"the body is not readable zstd: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise InvalidInputError("the body is not one whole zstd frame")
    return b"".join(parts)
