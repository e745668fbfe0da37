"""`make conformance`: run the cookbook's programs, one after the other, and say what they did."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path

from conformance import datasets, model
from conformance.cookbook import Cookbook, Unexpected
from conformance.programs import PROGRAMS
from conformance.programs.program import Program
from conformance.report import Line, machine, table
from conformance.server import Server, serving

PACKAGES = ("tinker-cookbook", "tinker", "tinsmith", "torch", "transformers")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--keep", type=Path, help="a new folder for logs, checkpoints and models")
    asked = parser.parse_args()
    try:
        versions = {name: metadata.version(name) for name in PACKAGES}
    except metadata.PackageNotFoundError as missing:
        print(f"{missing.name} is not installed; `make conformance` installs it", file=sys.stderr)
        return 1
    directory = asked.keep or Path(tempfile.mkdtemp(prefix="conformance-"))
    if asked.keep:
        asked.keep.mkdir(parents=True)
    try:
        lines = run_all(directory.resolve())
    finally:
        if not asked.keep:
            shutil.rmtree(directory, ignore_errors=True)
    print(machine(lines, versions) if asked.json else table(lines))
    return 0 if all(line.ok for line in lines) else 1


def run_all(directory: Path) -> list[Line]:
    datasets.write(directory)
    model.write(directory / "model")
    with serving(model.NAME, directory / "model", directory / "home") as server:
        cookbook = Cookbook(server.url, model.NAME, directory)
        lines = [run(program, cookbook, server) for program in PROGRAMS]
    return [*lines, quiet(server.log)]


def run(program: Program, cookbook: Cookbook, server: Server) -> Line:
    print(f"{program.name} ({program.what}) ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    steps, is_ok = None, False
    try:
        if server.has_ended():  # the SDK would wait for it to come back
            raise Unexpected("the server has ended")
        told = program.run(cookbook)
        steps, result, is_ok = told.steps, told.result, True
    except Unexpected as error:
        result = str(error)
    except Exception:  # the other programs are still worth running
        result = traceback.format_exc()
    seconds = time.monotonic() - started
    return Line(program.name, program.what, is_ok, steps, seconds, result)


def quiet(log: Path) -> Line:
    """The server has met nothing that it does not know how to answer."""
    text = log.read_text(errors="replace")
    first = text.find("Traceback")
    result = "no unexpected error in its log" if first < 0 else text[first : first + 1500]
    return Line("tinsmith serve", "the server of all these", first < 0, None, 0.0, result)


if __name__ == "__main__":
    sys.exit(main())
