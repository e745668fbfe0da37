"""One writer per process, with group commit: many small writes share one transaction and with it
one wait for the disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from tinsmith.domain.errors import StorageError
from tinsmith.ledger.database import Database

_T = TypeVar("_T")
_Write = tuple[Callable[[Connection], Any], "Future[Any]"]

MAX_GROUP = 256
"""Writes in one transaction."""


class Writer:
    """A thread that executes the writes of this process, in the order in which they came."""

    def __init__(self, engine: Engine, database: Database) -> None:
        self._engine = engine
        self._database = database
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="ledger writer", daemon=True)
        self._thread.start()

    def write(self, function: Callable[[Connection], _T]) -> _T:
        """Run it in a transaction; when this returns, what it wrote is on disk.

        The function may run while others' writes are not committed yet, sees them, and is undone
        alone if it raises.

        Raises:
            whatever the function raises.
            StorageError: the database refused, or the ledger is closed; nothing was kept.
        """
        return self.submit(function).result()

    def submit(self, function: Callable[[Connection], _T]) -> Future[_T]:
        """As `write`, without waiting for it."""
        waiting: Future[_T] = Future()
        with self._closing:
            if self._is_closed:
                raise StorageError("the ledger is closed: the server is stopping; try again later")
            self._queue.put((function, waiting))
        return waiting

    def close(self) -> None:
        """Finish what has been asked for, then end the thread."""
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            group: list[_Write] = []
            item = self._queue.get()
            while item is not None:
                group.append(item)
                if len(group) == MAX_GROUP or self._queue.empty():
                    break
                item = self._queue.get()
            is_open = item is not None
            if group:
                self._commit(group)

    def _commit(self, group: list[_Write]) -> None:
        answers: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with (
                self._database.errors(),
                self._engine.connect() as connection,
                connection.begin(),
            ):
                for function, waiting in group:
                    savepoint = connection.begin_nested()
                    try:
                        with self._database.errors():
                            answer = function(connection)
                    except Exception as error:
                        if self._database.has_ended(
                            connection
                        ):  # the database gave up the whole group
                            raise
                        savepoint.rollback()
                        answers.append((waiting, None, error))
                    else:
                        savepoint.commit()
                        answers.append((waiting, answer, None))
        except BaseException as error:
            for _, waiting in group:
                waiting.set_exception(error)
            return
        for waiting, answer, error in answers:
            if error is None:
                waiting.set_result(answer)
            else:
                waiting.set_exception(error)
