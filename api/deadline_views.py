"""The answers about deadlines of traders (`engine/deadlines.py`)."""

from typing import Annotated

import msgspec

from api.openapi.fields import Time, field_meta
from core.model import CANCEL_AFTER_SECONDS_MAX
from engine import deadlines

SECONDS_META = field_meta(
    "Seconds until your open orders are canceled, rounded up; 0 while the switch is off.",
    60,
    minimum=0,
    maximum=CANCEL_AFTER_SECONDS_MAX,
)


class LeaseView(msgspec.Struct, frozen=True):
    """The lease of a stream of yours."""

    grace_seconds: Annotated[int, field_meta("Its grace.", 5, minimum=0)]
    cancel_at: Annotated[Time, field_meta("When your open orders are canceled unless it is renewed or taken over.")]


class CancelAfterView(msgspec.Struct, frozen=True):
    """When your open orders on all cards are canceled."""

    seconds: Annotated[int, SECONDS_META]
    cancel_at: Annotated[Time | None, field_meta("That time, by the exchange's clock; null while the switch is off.")]
    lease: Annotated[LeaseView | None, field_meta("The lease of a stream of yours; null without one.")]


def lease_view(found: deadlines.Deadlines) -> LeaseView | None:
    """The lease of a trader; None if there is none."""
    if not found.lease_ms:
        return None
    return LeaseView(found.grace_seconds, deadlines.time_text(found.lease_ms))


def cancel_after_view(found: deadlines.Deadlines) -> CancelAfterView:
    """The switch and the lease of a trader."""
    cancel_at = deadlines.time_text(found.switch_ms) if found.switch_ms else None
    return CancelAfterView(found.switch_seconds, cancel_at, lease_view(found))
