"""Getting a checkpoint's files out: signed URLs per file, or one tar.gz."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tinsmith.api.catalogue import address_of
from tinsmith.api.front import caller_of, front_of, in_thread
from tinsmith.api.wire.catalogue import write_download_urls
from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.errors import AccessError
from tinsmith.service.checkpoints import SignedFile

PIECE_BYTES = 2**20


async def external_weights_urls(request: Request) -> Response:
    """Absolute URLs that need no key, at the address that is set for clients from outside, or the
    one by which the client called us. `Host` is what the client itself sent; X-Forwarded-* is
    what anybody may have sent, and is not looked at.
    """
    caller, checkpoints = caller_of(request), front_of(request).service.checkpoints
    address = address_of(request)
    base = front_of(request).public_url or str(request.base_url).rstrip("/")
    files, expires_at = await in_thread(checkpoints.sign, caller, address)
    urls = {file.path: _file_url(base, address, file) for file in files}
    return JSONResponse(write_download_urls(urls, expires_at))


def _file_url(base: str, address: CheckpointAddress, file: SignedFile) -> str:
    place = "/".join(
        quote(part, safe="") for part in (address.run_id, address.kind.value, address.name)
    )
    query = urlencode({"expires": file.expires, "signature": file.signature})
    return f"{base}/api/v1/files/{place}/{quote(file.path)}?{query}"


async def signed_file(request: Request) -> Response:
    """One file of a checkpoint, to whoever holds its signed URL."""
    address, path = address_of(request), request.path_params["path"]
    expires = request.query_params.get("expires", "")
    if not re.fullmatch(r"[0-9]{1,15}", expires):
        raise AccessError("this is no signed URL: its expiry is missing")
    file, size_bytes = await in_thread(
        front_of(request).service.checkpoints.open_signed,
        address,
        path,
        int(expires),
        request.query_params.get("signature", ""),
    )
    return StreamingResponse(
        _pieces(file),
        media_type="application/octet-stream",
        headers={"Content-Length": str(size_bytes)},
    )


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece


async def archive(request: Request) -> Response:
    """The checkpoint as one tar.gz, for plain HTTP clients that hold a key."""
    caller, checkpoints = caller_of(request), front_of(request).service.checkpoints
    address = address_of(request)
    pieces = await in_thread(checkpoints.archive, caller, address)
    first = await in_thread(next, pieces, b"")  # while a refusal can still be told
    return StreamingResponse(
        itertools.chain((first,), pieces),
        media_type="application/gzip",
        headers={"Content-Disposition": f'attachment; filename="{address.name}.tar.gz"'},
    )
