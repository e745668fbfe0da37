"""What a command prints and where: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

import click

QUIET_S = 2.0
"""Work that is done sooner shows no progress."""
PLAIN_LINE_EVERY_S = 10.0
"""Where standard error is not a terminal, progress is a line now and then."""
BAR_WIDTH = 24


class Terminal:
    """One command's way to speak. With `--json` nothing but the document reaches stdout."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.out: TextIO = sys.stdout
        self._bar: Progress | None = None

    def say(self, line: str) -> None:
        """A line about what is going on, on standard error."""
        self.clear()
        click.echo(line, err=True)

    def clear(self) -> None:
        """Take a bar off the screen, so that something else can be written."""
        if self._bar is not None:
            self._bar.clear()

    def show(self, text: str) -> None:
        """Part of the result for people; with `--json` it goes to standard error."""
        click.echo(text, file=sys.stderr if self.as_json else self.out)

    def result(self, document: dict[str, Any], text: str) -> None:
        """What the command came to: the document with `--json`, else the text for people."""
        if self.as_json:
            text = json.dumps(_finite(document), ensure_ascii=False, allow_nan=False)
            click.echo(text, file=self.out)
        else:
            click.echo(text, file=self.out)

    @contextmanager
    def counter(self, label: str) -> Iterator[Callable[[int], None]]:
        """Progress where the end is not known: call with how many are done."""
        with self.progress(label) as update:
            yield lambda done: update(done, 0, "")

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int, str], None]]:
        """A bar for the block: call with done, total and a few words. Shows after two seconds.

        A total of 0 means that the end is not known.
        """
        self._bar = Progress(label, sys.stderr)
        # Work whose first piece takes long is told of as well.
        late = threading.Timer(QUIET_S, self._bar.first)
        late.daemon = True
        late.start()
        try:
            yield self._bar.update
        finally:
            late.cancel()
            self._bar.clear()
            self._bar = None


def _finite(value: Any) -> Any:
    """The value with null for each NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(held) for held in value]
    return value


class Progress:
    def __init__(
        self, label: str, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label = label
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._started = clock()
        self._last_shown: float | None = None
        self._width = 0
        self._latest = (0, 0, "")
        self._writing = threading.Lock()

    def update(self, done: int, total: int, words: str = "") -> None:
        with self._writing:
            self._update(done, total, words)

    def _update(self, done: int, total: int, words: str) -> None:
        self._latest = (done, total, words)
        now = self._clock()
        if now - self._started < QUIET_S:
            return
        pause_s = 0.1 if self._is_terminal else PLAIN_LINE_EVERY_S
        is_due = self._last_shown is None or now - self._last_shown >= pause_s
        if not is_due and (done != total or not self._is_terminal):
            return
        self._last_shown = now
        line = self._line(done, total, now - self._started)
        if words:
            line += f"  {words}"
        if self._is_terminal:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def first(self) -> None:
        """Show that work is going on, if nothing was shown yet."""
        with self._writing:
            is_first = self._last_shown is None
        if is_first:
            self.update(*self._latest)

    def _line(self, done: int, total: int, elapsed_s: float) -> str:
        if not total:
            return f"{self._label} {done}"
        line = f"{self._label} {done}/{total}"
        if self._is_terminal:
            filled = BAR_WIDTH * done // total
            line = f"{self._label} [{'#' * filled:<{BAR_WIDTH}}] {done}/{total}"
        if total / 20 <= done < total:  # earlier, it would be a wild guess
            line += f"  {elapsed_s * (total - done) / done:.0f} s left"
        return line

    def clear(self) -> None:
        """Take the bar off the screen, so that a line can be written."""
        with self._writing:
            if self._is_terminal and self._width:
                self._stream.write("\r" + " " * self._width + "\r")
                self._stream.flush()
                self._width = 0


@contextmanager
def terminal(as_json: bool) -> Iterator[Terminal]:
    """The terminal for a command; what libraries print to stdout is kept off it."""
    speaker = Terminal(as_json=as_json)
    with redirect_stdout(sys.stderr):
        yield speaker
