"""Writes every trade of cards to a CSV file. A start with the same file goes on where the last one ended.

usage: recorder.py FILE CARD… [--trades N]     TCGX_URL says where
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

from tcgx_client import Gap, Tcgx, Trades

COLUMNS = ("trade_id", "card", "price", "quantity", "taker_side", "executed_at")


def last_numbers(file: Path) -> dict[str, int]:
    """The number of the last trade of each card in the file: a stream that resumes may begin a little before it."""
    if not file.exists():
        return {}
    with file.open(newline="") as opened:
        return {row["card"]: int(row["trade_id"].rpartition("-t")[2]) for row in csv.DictReader(opened)}


def record(client: Tcgx, file: Path, cards: Sequence[str], limit: int) -> None:
    """Appends trades to the file, and keeps the positions beside it."""
    mark = file.with_suffix(".positions")
    after = json.loads(mark.read_text()) if mark.exists() else None
    is_new = not file.exists()
    last = last_numbers(file)
    channels = [f"trades:{card}" for card in cards]
    with file.open("a", newline="") as opened, client.stream(*channels, after=after) as stream:
        rows = csv.writer(opened)
        if is_new:
            rows.writerow(COLUMNS)
        mark.write_text(json.dumps(stream.positions))
        for event in stream:
            if isinstance(event, Gap):
                print(f"{event.card}: trades of the commands {event.after + 1} to {event.before - 1} are missing")
            elif isinstance(event, Trades):
                new = [trade for trade in event.trades if trade.number > last.get(trade.card, 0)]
                rows.writerows([getattr(trade, column) for column in COLUMNS] for trade in new)
                opened.flush()
                limit -= len(new)
            mark.write_text(json.dumps(stream.positions))
            if limit <= 0:
                return


def main() -> None:
    """Runs until Ctrl-C, or for so many trades."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("cards", nargs="+")
    parser.add_argument("--trades", type=int, default=1_000_000_000_000)
    arguments = parser.parse_args()
    with Tcgx() as client:
        record(client, arguments.file, arguments.cards, arguments.trades)


if __name__ == "__main__":
    main()
