"""/operate in a real Chromium, without Prometheus: cards, halt and resume by hand."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from exchange import tokens
from testing.exchange import ExchangeServer, exchange_server
from testing.pages import MISSING, PROGRAM, browser

pytestmark = [pytest.mark.server, pytest.mark.skipif(PROGRAM is None, reason=MISSING)]

CARD = "pikachu"
ADMIN = 901
ORDER = {"card": CARD, "side": "buy", "price": "1.00"}


@pytest.fixture(scope="module")
def server() -> Iterator[ExchangeServer]:
    with exchange_server() as started:
        yield started


@pytest.fixture(scope="module")
def chromium(server: ExchangeServer) -> Iterator[Browser]:  # noqa: ARG001 - ends after the browser
    with browser() as running:
        yield running


@pytest.fixture
def page(server: ExchangeServer, chromium: Browser) -> Iterator[Page]:
    """The page as an admin sees it."""
    opened = chromium.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(f"{server.url}/operate")
    opened.fill("#token", tokens.issue_token(server.settings.jwt_secret, ADMIN, "admin", 600))
    opened.click("#login button")
    expect(opened.locator("#cards tr")).to_have_count(len(server.settings.cards))
    yield opened
    opened.close()
    assert said == []


def test_a_card_is_halted_with_a_reason_and_resumed(page: Page, server: ExchangeServer) -> None:
    row = page.locator(f"#cards tr[data-card={CARD}]")
    expect(row).to_contain_text("trading")

    row.get_by_role("button", name="Halt").click()
    expect(page.locator("#reason")).to_be_focused()
    page.keyboard.type("a wrong price")
    page.keyboard.press("Enter")
    expect(row).to_contain_text("a wrong price")
    refused = server.client(1).post("/orders", json=ORDER)
    assert (refused.status_code, refused.json()["code"]) == (503, "card_halted")

    row.get_by_role("button", name="Resume").click()
    expect(row).to_contain_text("trading")
    assert server.client(1).post("/orders", json=ORDER).status_code == 202
    audit = server.http.get("/admin/audit?limit=20", headers=server.bearer(ADMIN, "admin")).json()["rows"]
    assert [row["action"] for row in audit if row["outcome"] == "done"][:2] == ["resume", "halt"]


def test_numbers_follow_the_exchange_and_a_plot_grows(page: Page, server: ExchangeServer) -> None:
    before = server.sequences()[CARD]
    orders = [ORDER for _ in range(30)]
    assert server.client(1).post("/orders/batch", json={"orders": orders}).status_code == 202

    row = page.locator(f"#cards tr[data-card={CARD}]")
    expect(row.locator("td").nth(1)).to_have_text(str(before + 30), timeout=15_000)
    assert "a second" in str(row.locator("svg").get_attribute("aria-label"))
    assert row.locator("polyline").get_attribute("points")
    expect(page.locator("#health")).to_contain_text("The exchange is healthy")


def test_who_is_no_admin_sees_nothing(server: ExchangeServer, chromium: Browser) -> None:
    page = chromium.new_page()
    page.goto(f"{server.url}/operate")
    page.fill("#token", tokens.issue_token(server.settings.jwt_secret, 3, "trader", 600))
    page.click("#login button")
    expect(page.locator("#state")).to_contain_text("admin")
    expect(page.locator("main")).to_be_hidden()
    page.close()


def test_axe_finds_nothing_serious(page: Page) -> None:
    found = Axe().run(page).response["violations"]

    assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
