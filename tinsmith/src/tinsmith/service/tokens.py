"""Short-lived tokens in the place of an API key: JWT (RFC 7519), HMAC-SHA256."""

from __future__ import annotations

import base64
import binascii
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinsmith.domain.errors import AccessError
from tinsmith.domain.records import Caller
from tinsmith.service.signing import Signer

LIFETIME_S = 3600
"""The SDK asks for a new one after half of it."""
PREFIX = "eyJ"
"""What every such token, and no key of ours, begins with."""
ORGANIZATION = "tinsmith"
_HEADER = {"alg": "HS256", "typ": "JWT"}


class TokenRejectedError(AccessError):
    """The token is not ours, or too old. Who holds a key may exchange it for another one."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says."""

    key_id: str | None
    """Of the key that it stands for; None: it was made when there were no keys."""
    ends_at: int
    """Seconds since 1970."""


class Tokens:
    """Makes tokens and reads them back, with a secret of this home."""

    def __init__(self, secret_file: Path) -> None:
        """Makes the secret on first use. Raises StorageError if it can't be read or written."""
        self._signer = Signer(secret_file)

    def mint(self, caller: Caller, *, not_beyond: int | None = None) -> str:
        """A token for the caller. What it says of project and role is for its reader: what it
        opens is what its key opens when it is used.

        Args:
            not_beyond: seconds since 1970 at which it ends at the latest: a token that is
                exchanged for another one does not live longer by that.
        """
        now = int(time.time())
        end = now + LIFETIME_S if not_beyond is None else min(now + LIFETIME_S, not_beyond)
        claims = {
            "sub": f"tml:organization_user:{caller.owner}",
            "org_id": ORGANIZATION,
            "email": "",
            "project": caller.owner,
            "role": caller.role,
            "key_id": caller.key_id,
            "iat": now,
            "exp": end,
        }
        signed = f"{_pack(_HEADER)}.{_pack(claims)}"
        return f"{signed}.{_encode(self._signer.mac(signed.encode()))}"

    def read(self, token: str) -> Claims:
        """What it says.

        Raises:
            TokenRejectedError: not ours, changed, or too old.
        """
        signed, _, signature = token.rpartition(".")
        if not self._signer.is_mac(_decode(signature), signed.encode("utf-8", "surrogatepass")):
            raise TokenRejectedError("this token is not one that this server has signed")
        claims = json.loads(_decode(signed.partition(".")[2]))
        if time.time() >= claims["exp"]:
            raise TokenRejectedError("this token has expired; exchange the API key for a new one")
        return Claims(claims.get("key_id"), claims["exp"])


def _pack(values: dict[str, Any]) -> str:
    return _encode(json.dumps(values, separators=(",", ":")).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        return b""
