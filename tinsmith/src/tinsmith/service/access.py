"""Who is asking. Keys are compared in constant time and never logged."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from tinsmith.domain.errors import AccessError
from tinsmith.domain.records import Caller
from tinsmith.service.tokens import PREFIX, TokenRejectedError, Tokens

LOCAL_OWNER = "local"


class Access:
    """Without configured keys the service is for this machine alone: on loopback any key belongs
    to one local user. With keys, everybody shows one of them, loopback included, as a proxy on
    this machine makes strangers look local.

    Even the local user must send some key: a web page that the user happens to visit can reach a
    loopback port, but it cannot add a header of its own to such a request.
    """

    def __init__(self, tokens: Tokens, keys: Mapping[str, str] | None = None) -> None:
        """keys: API key -> the owner it stands for."""
        self._tokens = tokens
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
        if api_key.startswith(PREFIX):
            return Caller(self._owner_of_token(api_key)[0])
        given = _digest(api_key)
        found: str | None = None
        for known, owner in self._owners:  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, given):
                found = owner
        if found is None:
            raise AccessError("this API key is not known here")
        return Caller(found)

    def exchange(self, api_key: str | None, client_is_loopback: bool) -> str:
        """A token that stands for the key for a while. Raises as `authenticate`."""
        caller = self.authenticate(api_key, client_is_loopback)
        not_beyond = None
        if self._owners and api_key is not None and api_key.startswith(PREFIX):
            not_beyond = self._owner_of_token(api_key)[1]
        return self._tokens.mint(caller.owner, not_beyond=not_beyond)

    def _owner_of_token(self, token: str) -> tuple[str, int]:
        owner, ends_at = self._tokens.read(token)
        if owner not in (known for _, known in self._owners):
            raise TokenRejectedError(f"this token's owner, {owner}, has no key here any more")
        return owner, ends_at


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
