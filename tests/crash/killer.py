"""Kills a server at random moments, in random ways, and starts it again. A seed repeats it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from killable_server import KillableServer
from watched_training import Outcomes, Training, assert_outcomes_stand, settled

EVERYTHING, FRONT, ENGINE = "everything", "the front alone", "an engine alone"


class Killer:
    """The moments are random, but no kill is wasted on a server that has nothing to do: there is a
    script under way whenever one falls."""

    def __init__(self, server: KillableServer, seed: int) -> None:
        self._server = server
        self._draw = random.Random(seed)
        self._seen: Outcomes = {}
        self.told: list[str] = []

    def disturb(self, training: Training, num_kills: int) -> int:
        """Kill up to so many times while the script runs; how often it was."""
        for number in range(num_kills):
            if not self._wait_for_a_moment(training):
                return number
            self._kill_once()
        return num_kills

    def check(self) -> None:
        """Every outcome that was there at any of the kills is still the one that stands."""
        assert_outcomes_stand(self._server, self._seen)

    def _wait_for_a_moment(self, training: Training) -> bool:
        """Now and then while the server is still starting, mostly when it works; False if the
        script has ended by then."""
        if self._draw.random() < 0.8:
            self._server.wait_until_ready()
            pause_s = self._draw.uniform(0.0, 3.0)
        else:
            pause_s = self._draw.uniform(0.5, 6.0)
        deadline = time.monotonic() + pause_s
        while time.monotonic() < deadline and not training.has_ended():
            time.sleep(0.01)
        return not training.has_ended()

    def _kill_once(self) -> None:
        kill: dict[str, Callable[[], None]] = {
            EVERYTHING: self._server.kill_everything,
            FRONT: self._server.kill_front,
            ENGINE: self._server.kill_engine,
        }
        what = self._draw.choice(list(kill))
        # An engine that never answered is given up, as a restart would not help: then so is the
        # server, by design.
        if what == ENGINE and not self._server.is_ready():
            what = EVERYTHING
        kill[what]()
        self.told.append(what)
        self._seen |= settled(self._server)
        if what != ENGINE:
            time.sleep(self._draw.uniform(0.0, 0.5))
            self._server.start()
