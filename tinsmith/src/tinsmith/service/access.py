"""Who is asking. Keys are compared in constant time and never logged."""

from __future__ import annotations

import hmac
from contextlib import suppress
from datetime import UTC, datetime

from tinsmith.domain.errors import AccessError
from tinsmith.domain.key_text import digest_of, is_key, key_id_of
from tinsmith.domain.projects import LOCAL_PROJECT, ApiKey
from tinsmith.domain.records import Caller
from tinsmith.service.keyring import Keyring
from tinsmith.service.tokens import PREFIX, TokenRejectedError, Tokens


class Access:
    """As long as no key has been made the service is for this machine alone: on loopback any key
    belongs to one local user. From the first key on everybody shows one, loopback included, as a
    proxy on this machine makes strangers look local.

    Even the local user must send some key: a web page that the user happens to visit can reach a
    loopback port, but it cannot add a header of its own to such a request.
    """

    def __init__(self, tokens: Tokens, keys: Keyring) -> None:
        self._tokens = tokens
        self._keys = keys

    def authenticate(
        self, api_key: str | None, client_is_loopback: bool, *, may_be_silent: bool = False
    ) -> Caller:
        """Who holds this key, or the token that was given for it. May ask the ledger.

        Args:
            may_be_silent: the local user need not even send a key.

        Raises:
            AccessError: with the reason, for whoever may not come in.
        """
        if not api_key and not may_be_silent:
            raise AccessError("no API key: send one in the X-API-Key header")
        if self._keys.is_empty():
            if client_is_loopback:
                return Caller(LOCAL_PROJECT)
            raise AccessError(
                "this server has no keys and therefore answers only to its own machine; "
                "its operator makes one with `tinsmith keys create`"
            )
        if not api_key:
            raise AccessError("no API key: send one in the X-API-Key header")
        key = self._key_of_token(api_key) if _is_token(api_key) else self._key(api_key)
        return Caller(key.project, key.role, key.key_id)

    def exchange(self, api_key: str | None, client_is_loopback: bool) -> str:
        """A token that stands for the key for a while, and goes with it. Raises as
        `authenticate`."""
        caller = self.authenticate(api_key, client_is_loopback)
        ends: list[int] = []
        if caller.key_id is not None and api_key is not None:
            key = self._keys.find(caller.key_id)
            if key is not None and key.expires_at is not None:
                ends.append(int(key.expires_at.timestamp()))
            if _is_token(api_key):
                ends.append(self._tokens.read(api_key).ends_at)
        return self._tokens.mint(caller, not_beyond=min(ends, default=None))

    def answers_at_once(self, api_key: str | None) -> bool:
        """Whether `authenticate` can do without the ledger, which may be slow."""
        key_id = None
        if api_key and _is_token(api_key):
            with suppress(TokenRejectedError):
                key_id = self._tokens.read(api_key).key_id
        elif api_key:
            key_id = key_id_of(digest_of(api_key))
        return self._keys.remembers(key_id)

    def _key(self, api_key: str) -> ApiKey:
        # The id is looked up, which is public; the rest is compared, whose time tells nothing.
        digest = digest_of(api_key)
        key = self._keys.find(key_id_of(digest)) if is_key(api_key) else None
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise AccessError("this API key is not known here")
        if not key.is_good_at(datetime.now(UTC)):
            what = "has expired" if key.revoked_at is None else "was revoked"
            raise AccessError(f"this API key, {key.key_id}, {what}; ask for another one")
        return key

    def _key_of_token(self, token: str) -> ApiKey:
        key_id = self._tokens.read(token).key_id
        key = None if key_id is None else self._keys.find(key_id)
        if key is None or not key.is_good_at(datetime.now(UTC)):
            raise TokenRejectedError("the key that this token stands for is good no longer")
        return key


def _is_token(text: str) -> bool:
    return text.startswith(PREFIX)
