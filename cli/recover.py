"""`tcgx recover`: reports what log and archive lack of each other, and begins a new history after both."""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from archiver import recovery
from archiver.recovery import LostOrder, RecoveryPlan
from cli import paths
from cli.database import open_database
from core.errors import StartError
from core.model import price_text
from core.settings import Settings
from engine import connection, library

SHOWN_MAX = 20
REPORT_COLUMNS = ("order_id", "trader_id", "card", "side", "price", "quantity", "filled_quantity", "accepted_at")


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Prints the plans, asks for agreement, and runs them; the exit code is 1 if the user declines.

    Raises:
        StartError: `recover` does not mend the fault, or no terminal is there to ask.
        Unavailable: Redis or PostgreSQL does not answer.
    """
    report: Path | None = arguments.report
    if report is not None:
        paths.check_file(report)
    async with open_database(configured) as database, connection.connect(configured.redis_url) as redis:
        await library.load(redis)
        plans = await recovery.plans(redis, database, configured.cards)
        if not plans:
            print("log and archive of every card belong together: there is nothing to recover")
            return 0
        print("\n\n".join(_describe(plan) for plan in plans))
        if report is not None:
            _write(report, plans)
        if not arguments.yes and not _is_agreed():
            print("nothing was changed")
            return 1
        for plan in plans:
            history_id = await recovery.recover(redis, database, plan)
            print(f"{plan.card}: history {history_id[:8]} begins after command {plan.base}")
    return 0


def _is_agreed() -> bool:
    if not sys.stdin.isatty():
        raise StartError("nobody can be asked here: read the lines above, and repeat with --yes")
    return input("\nGo on with a new history, after both? [y/N] ").strip().lower() in ("y", "yes")


def _describe(plan: RecoveryPlan) -> str:
    lines = [f"{plan.card}: {plan.sentence}"]
    if plan.log_lacks:
        first, last = plan.log_lacks
        lines.append(
            f"  the log lacks commands {first} to {last}; {plan.archived_of_those} of them are orders in the archive"
        )
    if plan.archive_lacks:
        first, last = plan.archive_lacks
        lines.append(f"  the archive lacks what commands {first} to {last} completed")
    if plan.fault in recovery.RESTARTING_FAULTS:
        kept = (
            "its keys are set aside as lost:…, and its books begin empty" if plan.resting else "its books begin empty"
        )
    else:
        gone = f"; {len(plan.completed)} of them are completed in the archive" if plan.completed else ""
        kept = f"its books stay, with {plan.resting} orders{gone}"
    lines.append(f"  Redis: {kept}; the next order is {plan.card}-{plan.base + 1}")
    lines += _lost_lines(plan.lost)
    return "\n".join(lines)


def _lost_lines(lost: Sequence[LostOrder]) -> list[str]:
    if not lost:
        return ["  no order is known that rested in what is lost"]
    lines = [f"  lost are {len(lost)} orders that rested:"]
    lines += [f"    {_of_lost(one)}" for one in lost[:SHOWN_MAX]]
    if len(lost) > SHOWN_MAX:
        lines.append(f"    … and {len(lost) - SHOWN_MAX} more; --report FILE writes them all")
    return lines


def _of_lost(lost: LostOrder) -> str:
    order = lost.order
    if order is None:
        return f"{lost.order_id}, of which {lost.filled_quantity} were filled"
    return (
        f"{lost.order_id} of trader {order.trader_id}: {order.side.value} {order.quantity} at "
        f"{price_text(order.price_cents)}, of which {order.filled_quantity} were filled"
    )


def _write(report: Path, plans: Sequence[RecoveryPlan]) -> None:
    with report.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(REPORT_COLUMNS)
        writer.writerows(_row(plan.card, lost) for plan in plans for lost in plan.lost)


def _row(card: str, lost: LostOrder) -> tuple[object, ...]:
    order = lost.order
    if order is None:
        return (lost.order_id, "", card, "", "", "", lost.filled_quantity, "")
    return (
        lost.order_id,
        order.trader_id,
        card,
        order.side.value,
        price_text(order.price_cents),
        order.quantity,
        order.filled_quantity,
        order.accepted_at,
    )
