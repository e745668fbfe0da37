"""Plain GETs to a training service, without the SDK: is it healthy, does it serve tokenizers?"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from urllib.parse import quote, urlsplit


def is_loopback(url: str) -> bool:
    """Whether the address is this very machine's, so that no proxy stands between."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def bypass_proxies() -> None:
    """Tell every HTTP client of this process that loopback needs no proxy."""
    known = [name for name in os.environ.get("NO_PROXY", "").split(",") if name]
    os.environ["NO_PROXY"] = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost"]))


def status_of(url: str, *, timeout_s: float) -> int | None:
    """HTTP status of a GET, or None when nothing answers in time."""
    proxies = {} if is_loopback(url) else None  # a proxy has no business with loopback
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    try:
        with opener.open(url, timeout=timeout_s) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return None


def is_healthy(url: str, *, timeout_s: float = 5.0) -> bool:
    """Whether the service says that its models answer."""
    return status_of(f"{url}/api/v1/healthz", timeout_s=timeout_s) == 200


def serves_tokenizer(url: str, model: str, *, timeout_s: float = 10.0) -> bool:
    """Whether the service has a hub facade with this model's tokenizer."""
    address = f"{url}/hub/{quote(model)}/resolve/main/tokenizer_config.json"
    return status_of(address, timeout_s=timeout_s) == 200
