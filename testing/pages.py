"""A real Chromium (Debian's package) for the pages of an exchange; `python -m testing.pages` makes pictures.

The pictures are those of docs/images: the trading page of a demo exchange, in three widths and two themes.
"""

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

PROGRAM = shutil.which("chromium")
MISSING = "Chromium is not installed: apt-get install chromium"
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
LIVE_MS = 20_000
WIDTHS = {"wide": (1440, 900), "middle": (768, 1024), "narrow": (390, 844)}
Theme = Literal["dark", "light"]


@contextmanager
def browser() -> Iterator[Browser]:
    """A running browser."""
    assert PROGRAM, MISSING
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=PROGRAM, args=ARGUMENTS)
        try:
            yield running
        finally:
            running.close()


def live(page: Page, url: str) -> Page:
    """Opens the trading page, and waits until its prices are live."""
    page.goto(url)
    page.wait_for_selector("html[data-live=live]", timeout=LIVE_MS)
    return page


def log_in(page: Page, trader_id: int, api_key: str) -> None:
    """Logs in as a trader."""
    page.fill("#login [name=trader_id]", str(trader_id))
    page.fill("#login [name=api_key]", api_key)
    page.click("#login button")
    page.wait_for_selector("#order:not([hidden])")


def main() -> None:
    """Takes pictures of a running exchange with `--demo`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("trader_id", type=int)
    parser.add_argument("api_key")
    parser.add_argument("--folder", type=Path, default=Path("docs", "images"))
    arguments = parser.parse_args()
    themes: tuple[Theme, ...] = ("dark", "light")
    with browser() as running:
        for name, (width, height) in WIDTHS.items():
            for theme in themes:
                context = running.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
                page = live(context.new_page(), arguments.url)
                if name == "wide":
                    log_in(page, arguments.trader_id, arguments.api_key)
                    page.click("#ladder tbody tr:nth-child(18) td:nth-child(2)")
                    page.fill("#order [name=quantity]", "12")
                page.wait_for_timeout(3_000)  # the picture is to show some news
                page.screenshot(path=arguments.folder / f"page-{name}-{theme}.png")
                context.close()
    print(f"{2 * len(WIDTHS)} pictures in {arguments.folder}")


if __name__ == "__main__":
    main()
