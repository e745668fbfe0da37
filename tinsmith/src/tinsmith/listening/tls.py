"""A certificate and its key, from files that are looked at again while the server runs."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from tinsmith.domain.errors import InvalidInputError
from tinsmith.telemetry import event

WARN_BEFORE = timedelta(days=14)


class TlsFiles:
    def __init__(self, cert: Path, key: Path) -> None:
        """
        Args:
            cert: PEM, the server's own certificate first, then those between it and the root.
            key: PEM, without a passphrase.

        Raises:
            InvalidInputError: they can't be read, don't belong together, or the certificate has
                expired or is not valid yet.
        """
        self._cert, self._key = cert, key
        self._seen = self._times()
        _check(cert, key)
        self.context = _fresh_context()
        """For new connections; TLS 1.2 or later."""
        self.context.load_cert_chain(cert, key)

    def reload_if_changed(self) -> bool:
        """Whether new connections get another certificate from now on: the files have changed.

        Raises:
            InvalidInputError: they are not usable now; the old certificate stays in use.
        """
        seen = self._times()
        if seen == self._seen:
            return False
        self._seen = seen  # before the check, so that a broken pair is told of once
        _check(self._cert, self._key)
        self.context.load_cert_chain(self._cert, self._key)
        return True

    def _times(self) -> tuple[int, ...]:
        try:
            return tuple(file.stat().st_mtime_ns for file in (self._cert, self._key))
        except OSError as error:
            raise InvalidInputError(
                f"cannot read {error.filename}: {error.strerror}. --tls-cert and --tls-key name "
                "PEM files that this user may read"
            ) from error


def _fresh_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _check(cert: Path, key: Path) -> None:
    try:
        # An empty passphrase instead of a question on the terminal.
        _fresh_context().load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        why = error.reason or str(error)
        if why == "KEY_VALUES_MISMATCH":
            raise InvalidInputError(
                f"the key in {key} is not that of the first certificate in {cert}"
            ) from error
        raise InvalidInputError(
            f"cannot use {cert} and {key}: {why}. Give a PEM certificate chain, the server's own "
            "first, and a PEM key without a passphrase"
        ) from error
    except OSError as error:
        raise InvalidInputError(f"cannot read {cert} and {key}: {error.strerror}") from error
    certificate = x509.load_pem_x509_certificate(cert.read_bytes())
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = datetime.now(UTC)
    if now >= ends:
        raise InvalidInputError(f"the certificate in {cert} has expired: it ended {ends}")
    if now < begins:
        raise InvalidInputError(f"the certificate in {cert} is not valid before {begins}")
    if now + WARN_BEFORE >= ends:
        event("certificate_ends_soon", level=logging.WARNING, at=ends.isoformat())
