"""The site builds without a warning and without a network, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from docs.generate.docstrings import as_restructured_text
from docs.generate.links import with_project_links
from docs.generate.pages import generated_pages, write_pages

ROOT = Path(__file__).parents[2]
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The links of a page, what a browser loads with it, and the names of its parts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names |= {given["id"] or ""} if "id" in given else set()
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in LOADS and given.get(LOADS[tag]):
            self.loaded.append(str(given[LOADS[tag]]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-E", "-q", "-W", "--keep-going", "-b", "html", "docs", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_page_is_built(pages: dict[str, Page]) -> None:
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").glob("guides/*.md")}
    assert {name.replace(".md", ".html") for name in generated_pages().keys() | written | {"index.md"}} <= set(pages)


@pytest.mark.slow
def test_nothing_comes_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    assert [one for page in pages.values() for one in page.loaded if re.match(r"(https?:)?//", one)] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//|@import", styles) == []


@pytest.mark.slow
def test_links_lead_somewhere(site: Path, pages: dict[str, Page]) -> None:
    assert sum(len(page.links) for page in pages.values()) > 1000
    assert list(broken_links(site, pages)) == []


def broken_links(site: Path, pages: dict[str, Page]) -> Iterator[str]:
    for name, page in pages.items():
        for link in set(page.links):
            path, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            target = ((site / name).parent / path).resolve() if path else site / name
            file = target / "index.html" if target.is_dir() else target
            known = pages.get(file.relative_to(site.resolve()).as_posix()) if path else page
            if not file.is_file() or (anchor and known is not None and anchor not in known.names):
                yield f"{name}: {link}"


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    texts = {
        "index.html": '<a href="guides/one.html#part">1</a> <a href="guides/two.html">2</a> <a href="#top">3</a>',
        "guides/one.html": '<h1 id="part">1</h1> <a href="../index.html#there">4</a> <a href="https://example.org">5</a>',
    }
    (tmp_path / "guides").mkdir()
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = broken_links(tmp_path, {name: Page(text) for name, text in texts.items()})
    assert sorted(found) == [
        "guides/one.html: ../index.html#there", "index.html: #top", "index.html: guides/two.html",
    ]  # fmt: skip


def test_pages_that_are_generated_no_more_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docs.generate.pages.generated_pages", lambda: {"reference/new.md": "# New\n"})
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "old.md").write_text("# Old\n")
    (tmp_path / "own.md").write_text("# Own\n")
    write_pages(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.md")) == [
        "own.md",
        "reference/new.md",
    ]


def test_docstrings_are_shown_as_they_are_written() -> None:
    given = ["Do *that* | `a*b` with --out.", "", "    code *", "", "Args:", "    name_: a value"]
    assert as_restructured_text(given) == [
        r"Do \*that\* \| `a*b` with `--out`.", "", "::", "", "    code *", "", "Args:", r"    name\_: a value",
    ]  # fmt: skip


def test_links_out_of_the_documentation_lead_to_the_project() -> None:
    given = ["../../edgevit/configs", "../../CHANGELOG.md", "../../recipes/methods.yaml", "../tutorial.md"]
    text = ", ".join(f"[words]({link})" for link in given)
    changed = with_project_links(text, ROOT / "docs" / "guides")
    links = re.findall(r"\((.*?)\)", changed)
    assert re.fullmatch(r"https://[^ ]+/tree/main/edgevit/configs", links[0])
    assert re.fullmatch(r"https://[^ ]+/blob/main/CHANGELOG\.md", links[1])
    assert links[2:] == given[2:]
