"""Links inside the repository: files are there, and anchors are headings, on the code host as on the site."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks/README.md",
         ROOT / "examples/plugin/README.md"]


def read(page):
    """(targets of links and pictures, texts of the headings) of a page."""
    tokens = MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
    targets, headings = [], []
    for before, token in zip([None, *tokens], tokens, strict=False):
        for child in token.children or ():
            targets += [str(child.attrs[key]) for key in ("href", "src") if key in child.attrs]
        if before is not None and before.type == "heading_open":
            headings.append("".join(c.content for c in token.children if c.type in ("text", "code_inline")))
    return targets, headings


def anchors(headings):
    """Anchors that mean the same heading to the code host (which keeps every blank) and to the site (one dash each)."""
    plain = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(r"\s", "-", text) for text in plain} & {re.sub(r"[-\s]+", "-", text) for text in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    wrong = []
    for target in read(page)[0]:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if not (other.exists() and other.is_relative_to(ROOT)):
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(read(other)[1]):
            wrong.append(f"{target}: no heading of that name; there are {sorted(anchors(read(other)[1]))}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_tables_are_whole(page):
    """An empty line within a table makes what follows it a paragraph of bars."""
    tokens = MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
    assert [token.content for token in tokens if token.type == "inline" and token.content.startswith("|")] == []


def test_every_page_can_be_found():
    """From the README, along links."""
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        todo += [(page.parent / t.partition("#")[0]).resolve() for t in read(page)[0] if not re.match(r"[a-z]+:|#", t)]
    assert [p for p in (ROOT / "docs").rglob("*.md") if p not in seen] == []


def test_the_menu_of_the_site_has_every_page():
    """Without building it; the build itself, strict, is a step of the continuous integration."""
    yaml = pytest.importorskip("yaml")
    menu, todo = set(), [yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]]
    while todo:
        entry = todo.pop()
        if isinstance(entry, str):
            menu.add(entry)
        else:
            todo += entry.values() if isinstance(entry, dict) else entry
    elsewhere = {"index.md", "benchmarks.md", "example_plugin.md", "changelog.md"}
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert {name for name in menu if not name.startswith("api/")} == pages | elsewhere
