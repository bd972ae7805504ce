"""The trading page in a real Chromium, against a real exchange."""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, WebSocketRoute, expect

from api.pages import POLICY
from api.routes.web import FILES
from testing import faults
from testing.clients.trader import Trader
from testing.exchange import ExchangeServer, exchange_server, login_code
from testing.pages import MISSING, PROGRAM, browser, live, log_in
from testing.waiting import until

pytestmark = [pytest.mark.server, pytest.mark.skipif(PROGRAM is None, reason=MISSING)]

WEIGHT_MAX = 120_000
EXPECTED = re.compile("WebSocket|ERR_CONNECTION|status of (4|503)")
"""What Chromium says of a refused order and of a server that is away."""

CARD = "pikachu"
WATCH_BARS = """
() => {
  Object.assign(window, { wrong_bars: [], quantities: new Set() });
  const quantity = (cell) => Number(cell.querySelector("b").textContent);
  const length = (cell) => Number(/[(](.*)[)]/.exec(cell.querySelector(".bar").style.transform)?.[1] ?? 0);
  const look = () => {
    const rows = [...document.querySelectorAll("#ladder tbody tr")];
    const cells = rows.flatMap((row) => [row.cells[0], row.cells[2]]);
    const largest = Math.max(1, ...cells.map(quantity));
    const wrong = cells.filter((cell) => Math.abs(quantity(cell) / largest - length(cell)) > 0.001);
    window.wrong_bars.push(...wrong.map((cell) => [quantity(cell), largest, length(cell)]));
    cells.forEach((cell, place) => quantity(cell) && window.quantities.add(`${place} ${quantity(cell)}`));
    requestAnimationFrame(look);
  };
  look();
}
"""
FOLLOW_VECTOR = """
async ([card, messages]) => {
  const { Ladder } = await import("/web/ladder.js");
  const { money } = await import("/web/util.js");
  const ladder = new Ladder(() => {});
  const sorted = (side, sign) => [...side].sort((one, other) => sign * (one[0] - other[0]));
  const levels = (side, sign) => sorted(side, sign).map(([price, quantity]) => [money(price), quantity]);
  return messages.map((message) => {
    if (message.card === card) {
      if (message.type === "snapshot") ladder.snapshot(message);
      else if (ladder.sequence !== undefined && !ladder.update(message)) ladder.clear();
    }
    const { bids, asks } = ladder.sides;
    return [ladder.sequence !== undefined, ladder.sequence ?? null, levels(bids, -1), levels(asks, 1)];
  });
}
"""
STANDSTILL_SECONDS = 7.5
"""The page asks every 2 s, and waits for 5 s."""

FOLDER = Path(__file__).parents[1] / "vectors" / "book"
VECTORS: list[dict[str, Any]] = [
    vector for path in sorted(FOLDER.glob("*.json")) for vector in msgspec.json.decode(path.read_bytes())
]
LADDER = "[...document.querySelectorAll('#ladder tbody tr')]"
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def apart() -> Iterator[ThreadPoolExecutor]:
    """A thread without Playwright's event loop. It lives as long as the services that it starts."""
    with ThreadPoolExecutor(1) as thread:
        yield thread


@pytest.fixture(scope="module")
def server(apart: ThreadPoolExecutor) -> Iterator[ExchangeServer]:  # noqa: ARG001 - ends after the exchange
    """An exchange of its own."""
    with exchange_server(stream_address_max=0, stream_heartbeat_seconds=1) as started:
        yield started


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser."""
    with browser() as running:
        yield running


@pytest.fixture
def opened(server: ExchangeServer, chromium: Browser) -> Iterator[Open]:
    """Opens the page, logged in as a trader. At the end no page has said anything to the console or asked elsewhere."""
    said: list[str] = []
    elsewhere: list[str] = []
    contexts = []

    def make(trader_id: int = 0, prepare: Callable[[Page], None] = lambda _: None, **options: Any) -> Page:
        context = chromium.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: elsewhere.append(request.url) if not is_ours(request.url) else None)
        prepare(page)
        live(page, server.url)
        if trader_id:
            log_in(page, trader_id, server.api_key(trader_id))
        return page

    def is_ours(url: str) -> bool:
        return url.startswith((server.url, server.url.replace("http", "ws")))

    yield make
    for context in contexts:
        context.close()
    for trader_id in (1, 2):
        Trader(server.client(trader_id)).http.delete("/orders", headers={"prefer": "wait=5"})
    assert elsewhere == []
    assert [text for text in said if not EXPECTED.search(text)] == []


def order(page: Page, side: str, price: str, quantity: str = "1") -> None:
    page.locator(f"#order .{side} span").click()
    page.fill("#order [name=price]", price)
    page.fill("#order [name=quantity]", quantity)
    page.click("#send")


def rows(page: Page, table: str) -> list[str]:
    return [" ".join(text.split()) for text in page.locator(f"#{table} tbody tr").all_inner_texts()]


def test_files_have_tags_types_and_a_policy_and_are_light(server: ExchangeServer) -> None:
    weight = 0
    for name in FILES.contents:
        answer = httpx.get(f"{server.url}/{'' if name == 'index.html' else f'web/{name}'}")
        assert answer.headers["content-security-policy"] == POLICY
        assert not re.search(r"https?://(?!www\.w3\.org)|innerHTML|\bon[a-z]+=|style=", answer.text), name
        again = httpx.get(answer.url, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        weight += len(answer.content)
    assert weight < WEIGHT_MAX
    assert httpx.get(f"{server.url}/web/other.js").status_code == 404


def test_an_order_is_placed_seen_traded_changed_and_canceled(opened: Open) -> None:
    mine, other = opened(1), opened(2)
    order(mine, "buy", "2.00", "5")
    expect(mine.locator("#open tbody tr")).to_have_count(1)
    expect(mine.locator("#count-open")).to_have_text("(1)")
    expect(mine.locator("#ladder tr", has_text="2.00").locator(".own").first).to_have_text("5")
    expect(other.locator("#stat-bid")).to_have_text("2.00")

    order(other, "sell", "2.00", "2")
    expect(other.locator("#said")).to_contain_text(re.compile("Sold 2 pikachu|2 filled"))
    expect(mine.locator("#open tbody tr")).to_contain_text("2 / 5")
    expect(mine.locator("#tape tbody tr").first).to_contain_text("▼ 2.00")
    mine.click("#tab-fills")
    expect(mine.locator("#fills tbody tr").first).to_contain_text("maker")
    mine.click("#tab-open")

    mine.get_by_role("button", name="Change").click()
    mine.fill("input[aria-label='new price']", "2.10")
    mine.keyboard.press("Enter")
    expect(mine.locator("#open tbody tr", has_text="2.10")).to_have_count(1)
    expect(mine.locator("#open tbody tr")).to_have_count(1)
    mine.get_by_role("button", name="Cancel", exact=False).first.click()
    expect(mine.locator("#pane-open .empty")).to_be_visible()
    mine.click("#tab-latest")
    expect(mine.locator("#latest tbody tr").first).to_contain_text("canceled")


def test_a_wrong_order_is_told_at_its_field_and_sent_once(opened: Open, server: ExchangeServer) -> None:
    page = opened(1)
    order(page, "buy", "99.00")
    expect(page.locator("#error-price")).to_contain_text("must be a decimal from 1.00 to 10.00")
    assert page.get_attribute("[name=price]", "aria-invalid") == "true"
    order(page, "buy", "two")
    expect(page.locator("#error-price")).to_contain_text("must be a price like 5.50")

    before, posts = server.sequences()[CARD], []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    page.fill("#order [name=price]", "1.50")
    click, typed = "document.getElementById('send').click()", "dispatchEvent(new Event('input', {bubbles: true}))"
    page.evaluate(f"for (let n = 0; n < 5; n++) {{ {click}; document.querySelector('[name=price]').{typed}; }}")
    expect(page.locator("#open tbody tr")).to_have_count(1)
    assert server.sequences()[CARD] == before + 1
    assert len(posts) == 1


def test_a_price_far_through_the_book_asks_once_more(opened: Open, server: ExchangeServer) -> None:
    Trader(server.client(2)).submit(CARD, "sell", "3.00")
    page = opened(1)
    expect(page.locator("#stat-ask")).to_have_text("3.00")

    order(page, "buy", "4.00")
    expect(page.locator("#send")).to_contain_text("More than 5 %")
    page.click("#send")

    expect(page.locator("#said")).to_contain_text(re.compile("filled|Bought"))


def test_an_unusual_quantity_asks_once_more(opened: Open, server: ExchangeServer) -> None:
    maker, taker = Trader(server.client(2)), Trader(server.client(3))
    for _ in range(5):
        maker.submit(CARD, "sell", "3.00")
        taker.submit(CARD, "buy", "3.00")
    page = opened(1)
    expect(page.locator("#tape tbody tr")).not_to_have_count(0)

    order(page, "buy", "2.00", "11")
    expect(page.locator("#send")).to_contain_text("10 times the usual quantity")
    assert server.client(1).get("/orders?status=open").json()["orders"] == []
    page.click("#send")

    expect(page.locator("#open tbody tr")).to_have_count(1)


def test_a_paused_page_stands_still_and_takes_no_order(opened: Open, server: ExchangeServer) -> None:
    paused, other = opened(1), opened()
    paused.click("#pause")
    expect(paused.locator("#send")).to_be_disabled()
    expect(paused.locator("#send")).to_have_text("Prices are not live")

    Trader(server.client(2)).submit(CARD, "buy", "1.77")
    expect(other.locator("#stat-bid")).to_have_text("1.77")
    expect(paused.locator("#stat-bid")).not_to_have_text("1.77")
    expect(paused.locator("#state-text")).to_contain_text("not shown")

    paused.click("#pause")
    expect(paused.locator("#stat-bid")).to_have_text("1.77")
    expect(paused.locator("#send")).to_be_enabled()


def test_bars_are_as_long_as_the_quantities_beside_them(opened: Open, server: ExchangeServer) -> None:
    page = opened()
    trader = Trader(server.client(2))
    orders = [
        {"card": CARD, "side": "buy", "price": f"1.{10 + number}", "quantity": 1 + number} for number in range(20)
    ]
    assert trader.http.post("/orders/batch", json={"orders": orders}).status_code == 202
    expect(page.locator("#stat-bid")).to_have_text("1.29")
    page.evaluate(WATCH_BARS)
    for number in range(20):
        trader.submit(CARD, "buy", f"1.{10 + number}")

    expect(page.locator("#stat-bid")).to_have_text("1.29")
    until(lambda: page.evaluate("window.quantities.size") > 20, "no quantity is seen to change")
    assert page.evaluate("window.wrong_bars") == []


def test_a_candle_older_than_the_last_one_is_passed_over(opened: Open, server: ExchangeServer) -> None:
    sockets: list[WebSocketRoute] = []

    def tapped(page: Page) -> None:
        def carry(client: WebSocketRoute) -> None:
            client.connect_to_server().on_message(client.send)
            sockets.append(client)

        page.route_web_socket(re.compile("/stream/ws"), carry)

    Trader(server.client(2)).submit(CARD, "sell", "2.50")
    Trader(server.client(3)).submit(CARD, "buy", "2.50")
    page = opened(prepare=tapped)
    page.click("details summary")
    rows_now = "#candle-table tbody tr"
    expect(page.locator(rows_now)).not_to_have_count(0)
    before = page.locator(rows_now).all_inner_texts()

    old = {"start": "2020-01-01T00:00:00.000Z", "open": "9.99", "high": "9.99", "low": "9.99", "close": "9.99"}
    message = {"channel": "candles", "card": CARD, "interval": "1m", "candles": [old | {"volume": 1, "trades": 1}]}
    sockets[-1].send(json.dumps(message | {"type": "update", "sequence": 1}))
    page.wait_for_timeout(500)  # some frames

    assert page.locator(rows_now).all_inner_texts() == before
    expect(page.locator("#state-text")).to_have_text("live")


def test_the_ticket_keeps_what_is_typed_while_prices_move(opened: Open, server: ExchangeServer) -> None:
    page = opened(1)
    page.fill("#order [name=quantity]", "7")
    page.focus("#order [name=price]")
    page.keyboard.type("1.23")
    page.keyboard.press("ArrowLeft")
    other = Trader(server.client(2))
    for number in range(100):
        other.submit(CARD, "buy", f"1.{10 + number % 10}")
    expect(page.locator("#stat-bid")).to_have_text("1.19")

    assert (page.input_value("[name=price]"), page.input_value("[name=quantity]")) == ("1.23", "7")
    caret = page.evaluate("[document.activeElement.name, document.activeElement.selectionStart]")
    assert caret == ["price", 3]
    expect(page.locator("#words")).to_have_text("Buy 7 pikachu at 1.23 or less: you pay at most 8.61.")


def test_a_lost_server_is_told_and_nothing_can_be_sent_until_it_is_back(
    opened: Open, server: ExchangeServer, apart: ThreadPoolExecutor
) -> None:
    page = opened(1)
    order(page, "buy", "1.40")
    expect(page.locator("#open tbody tr")).to_have_count(1)
    order(page, "buy", "1.30")
    page.get_by_role("button", name="Change buy of pikachu at 1.30").click()

    assert apart.submit(server.stop_service, "api").result() == 0
    expect(page.locator("html")).to_have_attribute("data-live", "reconnecting")
    assert page.is_disabled("#send")
    assert page.is_disabled("#cancel-all")
    assert float(page.evaluate("getComputedStyle(document.getElementById('ladder')).opacity")) < 1
    typed = page.input_value("[name=price]")
    row = page.locator("#ladder tbody tr", has_text="1.40")
    row.click()
    assert page.input_value("[name=price]") == typed, "a dead ladder gives no price"
    expect(row).to_contain_text("1.40")
    expect(row.locator(".bid b")).to_have_text("1")
    page.fill("input[aria-label='new price']", "1.31")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text("Prices are not live: nothing was sent.")
    expect(page.get_by_role("button", name="Cancel buy of pikachu at 1.40")).to_be_disabled()
    apart.submit(server.start_service, "api").result()
    Trader(server.client(2)).submit(CARD, "sell", "1.40")

    expect(page.locator("html")).to_have_attribute("data-live", "live", timeout=40_000)
    expect(page.locator("#open tbody tr")).to_have_count(1)
    expect(page.locator("#open tbody tr")).to_contain_text("1.30")
    expect(page.locator("#tape tbody tr").first).to_contain_text("1.40")


def test_a_server_that_stands_still_is_told_within_seconds(
    opened: Open, server: ExchangeServer, apart: ThreadPoolExecutor
) -> None:
    page = opened()
    with faults.paused([server.pid("api")]):
        began = time.monotonic()
        page.wait_for_selector("html:not([data-live=live])", timeout=15_000)
        assert time.monotonic() - began < STANDSTILL_SECONDS
    assert apart
    expect(page.locator("html")).to_have_attribute("data-live", "live", timeout=40_000)


def test_a_book_that_stays_behind_the_heartbeats_is_read_again(opened: Open, server: ExchangeServer) -> None:
    muted: list[str] = []
    connections: list[WebSocketRoute] = []

    def tapped(page: Page) -> None:
        def carry(client: WebSocketRoute) -> None:
            connections.append(client)
            is_first = len(connections) == 1

            def pass_on(message: str | bytes) -> None:
                if is_first and muted and '"channel":"book"' in str(message):
                    return
                client.send(message)

            client.connect_to_server().on_message(pass_on)

        page.route_web_socket(re.compile("/stream/ws"), carry)

    page = opened(prepare=tapped)
    muted.append("book")
    Trader(server.client(2)).submit(CARD, "buy", "1.66")

    expect(page.locator("#stat-bid")).to_have_text("1.66", timeout=15_000)
    assert len(connections) == 2
    expect(page.locator("html")).to_have_attribute("data-live", "live")


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_the_ladder_does_what_the_vectors_say(opened: Open, vector: dict[str, Any]) -> None:
    """Those that every implementation of the recipe passes. The page asks for the book anew where one is broken."""
    found = opened().evaluate(FOLLOW_VECTOR, [vector["card"], [step["message"] for step in vector["steps"]]])

    for step, (is_live, sequence, bids, asks) in zip(vector["steps"], found, strict=True):
        assert is_live == step["live"]
        if is_live:
            assert (sequence, bids, asks) == (step["sequence"], step["bids"], step["asks"])


def test_a_trade_by_keyboard_alone(opened: Open, server: ExchangeServer) -> None:
    Trader(server.client(2)).submit(CARD, "sell", "5.55")
    page = opened()
    expect(page.locator("#stat-ask")).to_have_text("5.55")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the link to the ticket
    for text in ("1", server.api_key(1)):
        page.keyboard.press("Tab")
        page.keyboard.type(text)
    page.keyboard.press("Enter")
    page.wait_for_selector("#order:not([hidden])")
    page.focus("#ladder tr[tabindex='0']")
    page.keyboard.press("c")
    ask = page.locator("#ladder tr", has_text="5.55")
    for _ in range(60):
        if ask.get_attribute("tabindex") == "0":
            break
        place = page.evaluate(
            "[...document.querySelectorAll('#ladder tbody tr')].findIndex((row) => row.tabIndex === 0)"
        )
        wanted = page.evaluate(
            "[...document.querySelectorAll('#ladder tbody tr')].findIndex((row) => row.cells[1].textContent === '5.55')"
        )
        page.keyboard.press("ArrowUp" if wanted < place else "ArrowDown")
    page.keyboard.press("Enter")
    assert page.input_value("[name=price]") == "5.55"
    page.focus("#order [name=quantity]")
    page.keyboard.press("Enter")

    expect(page.locator("#said")).to_contain_text(re.compile("filled|Bought"))


def test_eight_tabs_show_the_same_book(opened: Open, server: ExchangeServer) -> None:
    """Tabs of one browser share its connections to a host: six, if they were requests."""
    first = opened()
    pages = [first, *(live(first.context.new_page(), server.url) for _ in range(7))]
    began = time.monotonic()
    assert pages[-1].evaluate("fetch('/cards').then((answer) => answer.status)") == 200
    assert time.monotonic() - began < 1
    trader = Trader(server.client(1))
    for number in range(5):
        trader.submit(CARD, "buy", f"1.{20 + number}", 3)

    for page in pages:
        expect(page.locator("#stat-bid")).to_have_text("1.24")
        page.keyboard.press("c")
        assert page.locator("#ladder .bid b:not(:empty)").count() == 5


def test_the_ladder_is_the_book_after_a_burst(opened: Open, server: ExchangeServer) -> None:
    page = opened()
    trader = Trader(server.client(1))
    orders = [{"card": CARD, "side": "buy", "price": f"1.{number % 40 + 10}", "quantity": 1} for number in range(600)]
    assert trader.http.post("/orders/batch", json={"orders": orders}).status_code == 202
    expect(page.locator("#stat-bid")).to_have_text("1.49")
    page.keyboard.press("c")

    book = server.http.get(f"/cards/{CARD}/book?depth=15").json()["bids"]
    script = (
        f"{LADDER}.filter((row) => row.cells[0].querySelector('b').textContent)"
        ".map((row) => [row.cells[1].textContent, Number(row.cells[0].querySelector('b').textContent)])"
    )
    until(lambda: page.evaluate(script)[:15] == book, "the ladder is another one")


def test_a_book_that_misses_an_update_is_read_again(opened: Open, server: ExchangeServer) -> None:
    """One update of the stream is lost on its way."""
    lost: list[str] = []

    def lossy(page: Page) -> None:
        def carry(client: WebSocketRoute) -> None:
            upstream = client.connect_to_server()

            def pass_on(message: str | bytes) -> None:
                if not lost and '"type":"update"' in str(message):
                    lost.append(str(message))
                else:
                    client.send(message)

            upstream.on_message(pass_on)

        page.route_web_socket(re.compile("/stream/ws"), carry)

    page = opened(prepare=lossy)
    trader = Trader(server.client(1))
    for price in ("1.60", "1.61", "1.62"):
        trader.submit(CARD, "buy", price)
        until(lambda price=price: server.http.get(f"/cards/{CARD}/book").json()["bids"][:1] == [[price, 1]])  # type: ignore[misc]
        page.wait_for_timeout(300)  # longer than the interval of the stream, so that each is a message

    expect(page.locator("#stat-bid")).to_have_text("1.62")
    page.keyboard.press("c")
    expect(page.locator("#ladder .bid b:not(:empty)")).to_have_count(3)
    assert len(lost) == 1


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_nothing_serious(opened: Open, theme: str) -> None:
    page = opened(1, color_scheme=theme)
    order(page, "buy", "1.30")
    expect(page.locator("#open tbody tr")).to_have_count(1)

    found = Axe().run(page).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"]) for each in serious] == []


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_overflows_a_narrow_window(opened: Open, width: int) -> None:
    page = opened(viewport={"width": width, "height": 800})

    for name in ("market", "book", "trade", "orders"):
        if width < 768:
            page.click(f".views [data-to={name}]")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_shifts_and_the_first_paint_is_early_while_news_come(opened: Open, server: ExchangeServer) -> None:
    script = """() => {
        window.shift = 0; window.long = [];
        const watch = (type, look) => new PerformanceObserver((list) => list.getEntries().forEach(look))
            .observe({ type, buffered: type === 'layout-shift' });
        watch('layout-shift', (each) => { if (!each.hadRecentInput) window.shift += each.value; });
        watch('longtask', (each) => window.long.push(each.duration));
    }"""
    page = opened()
    page.evaluate(script)
    trader = Trader(server.client(1))
    for number in range(40):
        orders = [{"card": CARD, "side": "buy", "price": f"1.{number % 40 + 10}", "quantity": 1} for _ in range(20)]
        trader.http.post("/orders/batch", json={"orders": orders})
    expect(page.locator("#stat-bid")).to_have_text("1.49")

    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 1_000
    assert page.evaluate("window.shift") < 0.02
    assert max(page.evaluate("window.long"), default=0) < 200  # 50 ms alone on a machine


def test_a_link_with_a_code_logs_in_once_and_its_code_leaves_the_address(
    chromium: Browser, server: ExchangeServer
) -> None:
    link = f"{server.url}/#code={login_code(server.settings.redis_url, 1)}"
    first, second = chromium.new_page(), chromium.new_page()

    first.goto(link)
    expect(first.locator("#who")).to_have_text("trader 1")
    expect(first.locator("#order")).to_be_visible()
    assert "#" not in first.url
    second.goto(link)
    expect(second.locator("#login-error")).to_contain_text("was used")
    expect(second.locator("#login")).to_be_visible()
    assert "#" not in second.url
    first.close()
    second.close()
