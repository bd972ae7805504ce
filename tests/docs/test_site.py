"""The site of the docs: built strictly, whole, offline; served by the exchange with validators and a policy."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from api.routes import docs
from docs_site.build import ROOT, BuildError, build, with_links


class Page(HTMLParser):
    """The addresses, the ids and the scripts of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.ids: set[str] = set()
        self.handlers: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Takes the start of an element."""
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            elif name == "href" and tag == "a":
                self.links.add(value or "")
            elif name in ("href", "src", "srcset", "poster", "data"):
                self.loaded.add(value or "")
            elif name.startswith("on"):
                self.handlers.add(f"{tag} {name}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    build(folder)
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path.read_text()) for path in site.rglob("*.html")}


@pytest.fixture(scope="module")
def client(site: Path) -> Iterator[TestClient[Litestar]]:
    with TestClient(Litestar(docs.routes(site), openapi_config=None)) as made:
        yield made


def test_every_page_of_the_docs_is_in_the_site_and_each_but_the_lists_in_the_menu(pages: dict[str, Page]) -> None:
    sources = {
        path.relative_to(ROOT / "docs").as_posix().replace("README.md", "index.md").removesuffix(".md")
        for path in (ROOT / "docs").rglob("*.md")
    }
    menu = (ROOT / "mkdocs.yml").read_text()
    unlisted = {
        page.relative_to(ROOT / "docs").as_posix()
        for page in (ROOT / "docs").rglob("*.md")
        if f": {page.relative_to(ROOT / 'docs').as_posix()}" not in menu
    }

    assert {f"{name}.html" for name in sources} <= pages.keys()
    assert {name.partition("/")[0] for name in unlisted} == {"decisions", "measurements"}, unlisted


def test_every_link_within_the_site_leads_to_a_page_and_a_place_in_it(site: Path, pages: dict[str, Page]) -> None:
    checked, wrong = 0, []
    for name, page in pages.items():
        for link in page.links | page.loaded:
            if "://" in link or link.startswith(("data:", "mailto:")):
                continue
            path, _, fragment = unquote(link).partition("#")
            target = ((site / name).parent / path).resolve() if path else site / name
            target = target / "index.html" if target.is_dir() else target
            checked += 1
            known = pages[target.relative_to(site.resolve()).as_posix()].ids if fragment and target.is_file() else {""}
            if not target.is_file() or fragment not in known:
                wrong.append(f"{name}: {link}")

    assert checked > 2_000
    assert wrong == []


def test_a_page_loads_nothing_from_elsewhere_and_has_no_script_in_an_attribute(pages: dict[str, Page]) -> None:
    loaded = set().union(*(page.loaded for page in pages.values()))

    assert len(loaded) > 20
    assert [address for address in loaded if re.match(r"(https?:)?//", address)] == []
    assert set().union(*(page.handlers for page in pages.values())) == set()


def test_styles_load_nothing_from_elsewhere(site: Path) -> None:
    styles = [path.read_text() for path in site.rglob("*.css")]

    assert styles
    assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", "".join(styles))


def test_two_builds_are_the_same(site: Path, tmp_path: Path) -> None:
    build(tmp_path / "site")

    assert (tmp_path / "site" / "manifest.json").read_text() == (site / "manifest.json").read_text()


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "index.md").read_text() + "\n[gone](nowhere.md)\n"

    with pytest.raises(BuildError, match="nowhere"):
        build(tmp_path / "site", replaced={"index.md": text})

    assert not (tmp_path / "site").exists()


def test_a_link_to_the_code_becomes_text_and_one_to_a_page_beside_docs_stays() -> None:
    text = "[the code](../core/model.py), [bench](../bench/README.md#method)\n```\n[x](../core/model.py)\n```\n"

    changed = with_links(text, ROOT / "docs" / "data.md", Path("data.md"), {"bench/README.md"})

    assert changed == "the code, [bench](bench/README.md#method)\n```\n[x](../core/model.py)\n```\n"


def test_a_page_has_a_validator_and_a_policy_that_names_its_scripts(client: TestClient[Litestar]) -> None:
    answer = client.get("/docs/start.html")

    policy = answer.headers["content-security-policy"]
    scripts = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert scripts
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    assert client.get("/docs/start.html", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert client.get("/docs/start.html", headers={"if-none-match": '"another"'}).status_code == 200


def test_every_file_is_served_as_it_was_built(client: TestClient[Litestar], site: Path) -> None:
    manifest = json.loads((site / "manifest.json").read_text())

    for name, (media_type, _) in manifest["files"].items():
        answer = client.get(f"/docs/{name}")
        assert (answer.status_code, answer.content) == (200, (site / name).read_bytes()), name
        assert answer.headers["content-type"].partition(";")[0] == media_type
        assert ("immutable" in answer.headers["cache-control"]) == name.startswith("assets/")


@pytest.mark.parametrize("name", ["manifest.json", "..%2fmanifest.json", "%2e%2e/%2e%2e/app.py", "/etc/passwd", "x"])
def test_nothing_but_the_files_of_the_site_is_served(client: TestClient[Litestar], name: str) -> None:
    assert client.get(f"/docs/{name}").status_code == 404


def test_without_a_site_the_page_says_how_it_is_built(tmp_path: Path) -> None:
    with TestClient(Litestar(docs.routes(tmp_path), openapi_config=None)) as client:
        for path in ("/docs", "/docs/index.html"):
            answer = client.get(path)
            assert answer.status_code == 404
            assert "make docs" in answer.text
            assert "/schema/swagger" in answer.text
