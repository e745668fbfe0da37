"""Who is asking. Keys are compared in constant time and never logged."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from tinsmith.domain.errors import AccessError
from tinsmith.domain.records import Caller

LOCAL_OWNER = "local"


class Access:
    """Without configured keys the service is for this machine alone: on loopback any key belongs
    to one local user. With keys, everybody shows one of them, loopback included, as a proxy on
    this machine makes strangers look local.

    Even the local user must send some key: a web page that the user happens to visit can reach a
    loopback port, but it cannot add a header of its own to such a request.
    """

    def __init__(self, keys: Mapping[str, str] | None = None) -> None:
        """keys: API key -> the owner it stands for."""
        self._owners = [(_digest(key), owner) for key, owner in (keys or {}).items()]

    def authenticate(self, api_key: str | None, client_is_loopback: bool) -> Caller:
        """Raises AccessError, with the reason, for whoever may not come in."""
        if not api_key:
            raise AccessError("no API key: send one in the X-API-Key header")
        if not self._owners:
            if client_is_loopback:
                return Caller(LOCAL_OWNER)
            raise AccessError(
                "this server has no keys configured and therefore answers only to its own machine"
            )
        given = _digest(api_key)
        found: str | None = None
        for known, owner in self._owners:  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, given):
                found = owner
        if found is None:
            raise AccessError("this API key is not known here")
        return Caller(found)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
