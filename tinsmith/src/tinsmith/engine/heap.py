"""Memory that was freed and that the C library still holds."""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Give it back to the system, where the C library is glibc.

    glibc keeps freed pages that lie among used ones until it is asked: 700 MB after quantising 440
    million weights, layer by layer.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
