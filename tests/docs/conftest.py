"""Makes the documentation's generator importable, as it is for `python docs/generate.py`."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))
