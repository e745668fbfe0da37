"""Runs and samplers, as methods of the ledger."""

from __future__ import annotations

from tinsmith.domain.records import Run, Sampler
from tinsmith.ledger import op_reading, run_rows
from tinsmith.ledger.ledger_file import LedgerFile


class RunLedger(LedgerFile):
    def run(self, run_id: str) -> Run | None:
        with self._read() as connection:
            return run_rows.find_run(connection, run_id)

    def runs(
        self, owner: str | None, *, limit: int, offset: int = 0, project_id: str | None = None
    ) -> tuple[list[Run], int]:
        """One page of an owner's runs or of everybody's, last used first, and how many there are
        in all."""
        with self._read() as connection:
            return run_rows.list_runs(connection, owner, limit, offset, project_id)

    def run_ids(self, session_id: str) -> list[str]:
        """Oldest first."""
        with self._read() as connection:
            return run_rows.run_ids(connection, session_id)

    def run_last_seq(self, run_id: str) -> int | None:
        """The highest seq_id that a client has used; None if there is no such run."""
        with self._read() as connection:
            return op_reading.last_seq_id(connection, run_id)

    def mark_corrupted(self, run_id: str) -> None:
        """Note that the run's state cannot be had any more."""
        self._write(lambda connection: run_rows.update_run(connection, run_id, is_corrupted=True))

    def create_sampler(self, sampler: Sampler) -> Sampler:
        """Make it, or find the equal one made before.

        Raises:
            SequenceReusedError: the id belongs to a different sampler.
        """
        return self._write(lambda connection: run_rows.create_sampler(connection, sampler))

    def sampler(self, sampler_id: str) -> Sampler | None:
        with self._read() as connection:
            return run_rows.find_sampler(connection, sampler_id)

    def sampler_ids(self, session_id: str) -> list[str]:
        """Oldest first."""
        with self._read() as connection:
            return run_rows.sampler_ids(connection, session_id)
