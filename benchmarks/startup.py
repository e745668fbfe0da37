"""Time from `tinsmith serve` to healthy with the built-in model.

Healthy means that the model has answered: /api/v1/healthz says 200 only after a forward pass
whose result was compared with transformers' own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from machine import machine

PATIENCE_S = 120.0


def seconds_to_healthy(home: Path) -> float:
    started = time.monotonic()
    server = subprocess.Popen(
        [sys.executable, "-m", "tinsmith.cli", "serve", "--home", str(home), "--port", "0"],
        stderr=subprocess.DEVNULL,
    )
    try:
        while time.monotonic() - started < PATIENCE_S:
            if is_healthy(home / "server.json"):
                return time.monotonic() - started
            time.sleep(0.02)
        raise SystemExit("the server did not become healthy")
    finally:
        server.terminate()
        server.wait()


def is_healthy(server_file: Path) -> bool:
    try:
        url = json.loads(server_file.read_text())["url"]
        with urllib.request.urlopen(f"{url}/api/v1/healthz", timeout=5) as answer:
            return answer.status == 200
    except (OSError, ValueError, urllib.error.URLError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="write the result here as well")
    options = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        times = [seconds_to_healthy(Path(folder, str(i))) for i in range(options.repeats)]
    result = {
        "benchmark": "startup",
        "unit": "s",
        "median": statistics.median(times),
        "times": times,
        "machine": about,
    }
    if options.keep:
        options.keep.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result) if options.json else f"median {result['median']:.1f} s of {times}")


if __name__ == "__main__":
    main()
