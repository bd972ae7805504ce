"""The pages that are made from the source are those in docs/, and have every code and every setting."""

import re
from pathlib import Path

import pytest

from api.openapi.error_codes import ERROR_CODES
from core.settings import DESCRIPTIONS, variable
from docs_site import pages

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_page_is_as_the_source_makes_it(name: str) -> None:
    assert (DOCS / name).read_text() == pages.PAGES[name](), "run `make docs`"


def test_the_page_of_errors_has_every_code_under_its_status() -> None:
    listed = {
        f"{status} {code}"
        for status, section in re.findall(r"^## (\d+)\n(.*?)(?=^## |\Z)", pages.errors(), re.MULTILINE | re.DOTALL)
        for code in re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    }

    assert listed == set(ERROR_CODES)
    assert len(listed) > 60


def test_the_page_of_settings_has_every_setting() -> None:
    listed = re.findall(r"^\| `(TCGX_\w+)` \|", pages.settings(), re.MULTILINE)

    assert listed == [variable(field) for field in DESCRIPTIONS]
