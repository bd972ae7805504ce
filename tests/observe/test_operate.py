"""/operate: admins alone get data, the page is whole and from here alone, and faults of Prometheus are told."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from api.pages import POLICY, TYPES
from api.routes.operate import FILES
from core.errors import Unavailable
from observe.panels import panels
from observe.prometheus import PrometheusReader
from testing.exchange import ExchangeServer, tcgx_up
from testing.observed import ObservedExchange
from testing.prometheus import MISSING, PROGRAM, Prometheus
from testing.servers import folder
from testing.waiting import until

pytestmark = pytest.mark.server

ADMIN, TRADER = 901, 902


def ask(exchange: ExchangeServer, path: str, trader_id: int = 0) -> tuple[int, Any]:
    """Status and body of an answer that the OpenAPI document does not describe."""
    headers = exchange.bearer(trader_id, "admin" if trader_id == ADMIN else "trader") if trader_id else {}
    answer = httpx.get(f"{exchange.url}{path}", headers=headers, timeout=20, trust_env=False)
    return answer.status_code, answer.json()


@pytest.mark.usefixtures("prometheus")
def test_only_admins_get_data(observed: ObservedExchange) -> None:
    for path in ("/operate/panels", "/operate/logs"):
        assert [ask(observed, path, caller)[0] for caller in (0, TRADER, ADMIN)] == [401, 403, 200]


@pytest.mark.usefixtures("prometheus")
def test_an_admin_gets_every_panel_as_a_picture(observed: ObservedExchange) -> None:
    def pictures_now() -> list[str]:
        """The pictures; none before most of them have data: a rate needs two scrapes."""
        status, body = ask(observed, "/operate/panels?minutes=1", ADMIN)
        assert status == 200
        found = [picture for row in body["rows"] for picture in row["panels"]]
        return found if sum(">no data<" in picture for picture in found) < len(found) / 2 else []

    observed.trader().submit("pikachu", "buy", "1.00")
    pictures = until(pictures_now, "most panels have no data")
    titles = [ElementTree.fromstring(picture)[0].text for picture in pictures]  # noqa: S314 - made by the exchange
    assert titles == [panel.title for panel in panels()]
    assert not re.search(r"<script|href|url\(|style=", "".join(pictures))


def test_an_admin_gets_the_lines_of_a_request(observed: ObservedExchange) -> None:
    observed.trader().request("GET", "/orders", **{"x-request-id": "seen-by-an-operator"})

    status, body = ask(observed, "/operate/logs?text=seen-by-an-operator&level=debug", ADMIN)

    assert status == 200
    assert [(line["event"], line["operation"]) for line in body["lines"]] == [("request", "list_orders")]


@pytest.mark.parametrize(
    "path",
    [
        "/operate/panels?minutes=0",
        "/operate/panels?minutes=x",
        "/operate/logs?level=loud",
        f"/operate/logs?text={'x' * 201}",
    ],
)
def test_a_wrong_parameter_is_named(observed: ObservedExchange, path: str) -> None:
    status, body = ask(observed, path, ADMIN)

    assert status == 422
    assert body["errors"][0]["field"] == re.split(r"[?=]", path)[1]


def test_the_page_is_whole_and_asks_this_exchange_alone(observed: ObservedExchange) -> None:
    paths = {"operate.html": "/operate"} | {
        name: f"/operate/{name}" for name in FILES.contents if name != "operate.html"
    }
    for name, path in paths.items():
        answer = httpx.get(f"{observed.url}{path}", trust_env=False)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(TYPES[name.rpartition(".")[2]])
        assert answer.headers["content-security-policy"] == POLICY
        assert not re.search(r"https?://(?!www\.w3\.org)|\bon\w+=|style=|innerHTML|eval\(", answer.text), name
    assert "'unsafe" not in POLICY
    assert ask(observed, "/operate/other.js")[0] == 404


def test_a_prometheus_that_is_away_is_told() -> None:
    with pytest.raises(Unavailable, match="Prometheus did not answer"):
        PrometheusReader("http://127.0.0.1:1").alerts()


def test_without_prometheus_and_log_files_there_are_no_panels_and_no_lines(exchange: ExchangeServer) -> None:
    assert httpx.get(f"{exchange.url}/operate", trust_env=False).status_code == 200
    assert ask(exchange, "/operate/panels", TRADER)[0] == 403
    assert ask(exchange, "/operate/panels", ADMIN) == (200, {"rows": [], "alerts": []})
    assert ask(exchange, "/operate/logs", ADMIN) == (200, {"lines": []})


def test_tcgx_up_observes_all_its_processes() -> None:
    if PROGRAM is None:
        pytest.skip(MISSING)
    with folder() as where, tcgx_up(where, "--observe", variables={"TCGX_API_WORKERS": "2"}) as running:
        (trader,) = running.traders(1)
        trader.submit("pikachu", "buy", "5.00")
        here = Prometheus(running.urls.settings["TCGX_PROMETHEUS_URL"])
        up = until(lambda: found if len(found := here.query("up == 1")) == 4 else None, "not all processes are scraped")
        page = trader.get("/operate")

        assert sorted(each["metric"]["job"] for each in up) == ["tcgx-api", "tcgx-api", "tcgx-archiver", "tcgx-engine"]
        assert "operate.js" in page
        assert {path.name for path in Path(where, ".tcgx", "log").iterdir()} >= {"api.jsonl", "engine.jsonl"}
        assert running.stop() == 0
