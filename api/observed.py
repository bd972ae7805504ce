"""Connects an app to what operators see: its journal, followed orders, traces, and the port of metrics."""

import contextlib
import time
from collections.abc import AsyncIterator

from litestar import Litestar

from api import metrics
from api.context import Context
from archiver.queries import Archive
from exchange.followed_orders import APPEND, ARCHIVE, MATCH, FollowedOrders, Stages
from observe import exposition, tracing
from observe.journal import Answered, Journal
from observe.tracing import Span, Traces


@contextlib.asynccontextmanager
async def observed(app: Litestar, context: Context, archive: Archive) -> AsyncIterator[None]:
    """Follows sampled orders and answers scrapes during the context, as far as the settings ask for it.

    Raises:
        StartError: a package for traces is missing.
    """
    settings = context.settings
    journal: Journal | None = app.state.journal
    source = metrics.exchange_state(context, app.state.get("connections"))
    with tracing.connected(settings, "tcgx-api") as traces:
        async with exposition.serving(settings, "api", [source]):
            if journal is None or not (settings.metrics_port or traces):
                yield
                return
            followed = FollowedOrders(context.exchange, archive, emit=None if traces is None else _Emitter(traces))
            journal.follow, journal.takes_traceparent = followed.follow, traces is not None
            try:
                yield
            finally:
                journal.follow = None
                await followed.close()


class _Emitter:
    """Sends followed answers as traces."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    def __call__(self, answered: Answered, stages: Stages | None) -> None:
        ended_at = time.time() if stages is None else stages.answered_at
        attributes: dict[str, str | int | float] = {
            "http.response.status_code": answered.status,
            "tcgx.request_id": answered.request_id,
            "tcgx.trader": answered.trader_id,
        }
        spans = []
        if stages is not None:
            attributes["tcgx.order"] = stages.order
            spans.append(Span(APPEND, stages.received_at, stages.answered_at))
            if stages.matched_at is not None:
                spans.append(Span(MATCH, stages.answered_at, stages.matched_at))
            if stages.matched_at is not None and stages.archived_at is not None:
                spans.append(Span(ARCHIVE, stages.matched_at, stages.archived_at))
        root = Span(answered.operation or metrics.UNKNOWN, ended_at - answered.seconds, ended_at, attributes)
        self._traces.send(answered.traceparent, root, spans)
