"""A shard that is worked on: its journal while it is, its part at the end. Blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from gpt.batch.directory import JobDirectory, Shard, mark_of
from gpt.batch.files import commit, remove, write
from gpt.batch.journal import Journal
from gpt.batch.progress import Facts, Tally
from gpt.batch.rows import Row
from gpt.errors import GptError, InvalidRequestError


class OpenShard:
    """A shard that is worked on, by nobody else. Raises BusyError, OSError.

    One that somebody else has ended meanwhile wants no row, and its `commit` makes nothing anew.
    """

    def __init__(self, directory: JobDirectory, number: int) -> None:
        self.directory = directory
        self.number = number
        self.start, self.stop = directory.range_of(number)
        self.journal = Journal(directory.of_shard(number, "journal"), range(self.start, self.stop))
        self.tally = Tally()
        """What its rows took up to now."""
        self._old = self.journal.reopening
        self._again = None if self._old is None else frozenset(self._old.reopens)
        self._marks: list[int] = []
        self.is_done = self._old is None and os.path.exists(directory.part(number))
        try:
            if self.is_done:
                self.tally.merge(directory.shard(number).tally)
            else:
                for tally in self._tallies():
                    self.tally.merge(tally)
        except BaseException:
            self.close()
            raise

    def _tallies(self) -> tuple[Tally, Tally]:
        """What the rows took that were answered, and those that failed."""
        answered, failed = Tally(), Tally()
        if self._old is not None:
            answered.merge(Tally.from_dict(self._old.answered))
        for entry in self.journal.entries():
            (failed if entry.facts.kind else answered).add(entry.facts)
        return answered, failed

    def wants(self, row: Row) -> bool:
        """Whether a row is to be asked. Raises InvalidRequestError where it is another than when it was answered.

        Is called for the rows in their order.
        """
        if self.is_done:
            return False
        known = row.number in self.journal
        if known and self.journal.mark(row.number) != row.mark:
            raise self._changed(f"row {row.number} is")
        if self._old is not None and self._again is not None:
            self._marks.append(row.mark)
            if len(self._marks) == self._old.rows and mark_of(self._marks) != self._old.mark:
                raise self._changed(f"rows {self.start} to {row.number} are")
            return not known and row.number in self._again
        return not known

    @staticmethod
    def _changed(what: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"rows: {what} not what it was when it was answered; a job goes on with the same rows, in the same order. "
            "Name another output, or fork the job",
            param="rows",
        )

    def record(self, row: Row, facts: Facts, value: bytes) -> None:
        """Put down what a row came to, once. Raises OSError; then it may be tried again."""
        if self.is_done or row.number in self.journal or not (self._again is None or row.number in self._again):
            raise ValueError(f"row {row.number} has come to something already")
        self.journal.append(row.number, row.mark, facts, value)
        self.tally.add(facts)

    def commit(self) -> Shard:
        """Make the part, of all its rows. Raises OSError; then nothing is lost, and it may be tried again.

        Raises GptError where a row is missing: a part has all of them.
        """
        directory, number, old, journal = self.directory, self.number, self._old, self.journal
        if self.is_done:
            made = directory.shard(number)
            self._leave()
            return made
        journal.sync()
        missing = next((row for row in self._due() if row not in journal), None)
        if missing is not None:
            raise GptError(f"shard {number}: row {missing} has come to nothing yet, and the part is of all of them")
        answered, failed = self._tallies()
        order = list(journal)
        failures = [row for row in order if journal.failed(row)]
        rows, mark = (len(order), mark_of(map(journal.mark, order))) if old is None else (old.rows, old.mark)
        if answered.rows + failed.rows != rows:
            raise OSError(f"{journal.path} cannot be read back; run the job again")
        split = directory.where.splits
        written = [(directory.of_shard(number, "part"), directory.part(number), self._rows(order, errors=not split))]
        if split:
            # The failed ones first: the shard is done when the others are there.
            written.insert(
                0, (directory.of_shard(number, "errors"), directory.part(number, errors=True), map(journal.value, failures))
            )
        try:
            size = sum(directory.write_rows(beside, rows) for beside, _, rows in written)
            made = Shard(rows, mark, answered, failed, failures, size)
            write(directory.of_shard(number, "json"), msgspec.json.encode(made))
            for beside, path, _ in written:
                commit(beside, path)
        except BaseException:
            for beside, _, _ in written:  # where the disk is full it is not to be fuller
                remove(beside)
            raise
        self._leave()
        return made

    def _due(self) -> Iterator[int] | range:
        """The rows that must be in the journal for the shard to be done."""
        if self._again is not None:
            return iter(sorted(self._again))
        return range(*self.directory.range_of(self.number))  # where the input ends may be known only now

    def _rows(self, order: list[int], *, errors: bool) -> Iterator[bytes]:
        """The rows of the part, in order, with those that failed or without: of a part that was there those not asked again."""
        journal = self.journal
        if self._old is None or self._again is None:
            yield from (journal.value(row) for row in order if errors or not journal.failed(row))
            return
        path = self.directory.of_shard(self.number, "old")
        old = self.directory.rows_of(path)
        for row in range(self.start, self.start + self._old.rows):
            again = row in self._again
            kept = next(old, None) if errors or not again else b""
            if kept is None:
                raise InvalidRequestError(f"out: {path}, which has the rows of before, has no row {row}", param="out")
            if not again:
                yield kept
            elif errors or not journal.failed(row):
                yield journal.value(row)

    def _leave(self) -> None:
        """Leave the part, and nothing else."""
        self.directory.clear(self.number)
        self.close()

    def close(self) -> None:
        """Let others have it."""
        self.journal.close()

    def discard(self) -> None:
        """Close it, and leave no trace of it: it has no rows."""
        with suppress(FileNotFoundError):
            os.unlink(self.journal.path)
        remove(self.directory.of_shard(self.number, "alive"))
        self.close()
