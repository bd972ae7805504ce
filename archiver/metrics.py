"""Metrics of an archiver: counts of a transaction, and how far each card is."""

import time
from collections.abc import Iterable, Mapping, Sequence

from archiver.queries import Cursor
from archiver.writer import RowBatch
from observe.tallies import SIZES, Count, Distribution, Value

commands = Count("tcgx_archived_commands", "Commands whose results are archived by this process", ("card",))
transaction_seconds = Distribution("tcgx_archive_transaction_seconds", "The time of a transaction of the archive")
transaction_commands = Distribution(
    "tcgx_archive_transaction_commands", "Commands whose results are archived in one transaction", bounds=SIZES
)
delay_seconds = Distribution(
    "tcgx_archive_delay_seconds", "From the append of the newest entry of a transaction to its end, for each card"
)
failures = Count("tcgx_archive_failures", "Rounds of the archiver that ended with an error")


class ArchiveState:
    """How far the archiver of this process is."""

    def __init__(self) -> None:
        self.is_working = False
        self._sequences: dict[str, int] = {}

    def begin(self, cursors: Mapping[str, Cursor]) -> None:
        """Records the cursors with which a round begins."""
        self.is_working = True
        self._sequences = {card: cursor.sequence for card, cursor in cursors.items()}
        for card in cursors:
            commands.add(0, card)

    def wrote(self, batch: Sequence[RowBatch], began_at: float) -> None:
        """Records a transaction. `began_at`: of the clock `time.perf_counter`."""
        now, total = time.time(), 0
        transaction_seconds.add(time.perf_counter() - began_at)
        for rows in batch:
            done = rows.cursor.sequence - self._sequences.get(rows.card, rows.cursor.sequence)
            self._sequences[rows.card] = rows.cursor.sequence
            commands.add(done, rows.card)
            total += done
            appended_ms = int(rows.cursor.log_id.partition("-")[0])
            if appended_ms:
                delay_seconds.add(max(0.0, now - appended_ms / 1_000))
        transaction_commands.add(total)

    def ended(self, *, failed: bool) -> None:
        """Records the end of a round."""
        self.is_working = False
        failures.add(int(failed))

    async def archive_state(self) -> Iterable[Value]:
        """The source of a scrape."""
        found = [Value("tcgx_archiver_working", int(self.is_working))]
        for card, sequence in self._sequences.items():
            found.append(Value("tcgx_archived_sequence", sequence, (("card", card),)))
        return found


state = ArchiveState()
"""One for the process, since a process has one archiver at work at most."""
