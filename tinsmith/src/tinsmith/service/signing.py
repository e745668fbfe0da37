"""Signatures for download URLs and tokens: HMAC-SHA256 (RFC 2104) with a secret of this home."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from tinsmith.domain.errors import StorageError

SECRET_BYTES = 32


class Signer:
    """Signs texts with the secret kept in a file that only its owner can read."""

    def __init__(self, secret_file: Path) -> None:
        """Makes the secret on first use. Raises StorageError if it can't be read or written."""
        self._secret = _read_or_make(secret_file)

    def sign(self, *parts: str | int) -> str:
        """A hexadecimal signature of the parts in this order."""
        # Lengths first, so that ("ab", "c") and ("a", "bc") differ.
        texts = [str(part).encode() for part in parts]
        return self.mac(b"".join(len(text).to_bytes(8, "little") + text for text in texts)).hex()

    def mac(self, message: bytes) -> bytes:
        """HMAC-SHA256 of the bytes as they are."""
        return hmac.new(self._secret, message, hashlib.sha256).digest()

    def is_mac(self, mac: bytes, message: bytes) -> bool:
        """Whether `mac` gives this; takes the same time either way."""
        return hmac.compare_digest(self.mac(message), mac)

    def is_valid(self, signature: str, *parts: str | int) -> bool:
        """Whether `sign` gave this signature for these parts; takes the same time either way."""
        return hmac.compare_digest(self.sign(*parts).encode(), signature.encode())


def _read_or_make(path: Path) -> bytes:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        if not path.exists():
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(fresh, path)  # the first of two processes wins, the other reads its secret
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        secret = path.read_bytes()
    except OSError as error:
        raise StorageError(
            f"cannot keep a secret in {path.name}: {error.strerror}. "
            "Make the home folder writable for the user who runs the server."
        ) from error
    if len(secret) != SECRET_BYTES:
        raise StorageError(
            f"{path.name} in the home folder is damaged ({len(secret)} bytes instead of "
            f"{SECRET_BYTES}); delete it, and a new one is made (download URLs or tokens given out "
            "so far stop working)"
        )
    return secret
