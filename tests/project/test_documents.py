"""The pages are true where a machine can tell: links lead somewhere, commands exist, every error has its row."""

from __future__ import annotations

import re

import pytest

from worker.errors import Code
from worker.settings import REPO_ROOT

PAGES = sorted([*REPO_ROOT.glob("*.md"), *(REPO_ROOT / "docs").glob("*.md"), *(REPO_ROOT / "client").glob("*.md")])
TARGETS = set(re.findall(r"^([a-z-]+):", (REPO_ROOT / "Makefile").read_text(), re.MULTILINE))


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO_ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text())
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO_ROOT)))
def test_every_make_command_of_a_page_exists(page):
    named = set(re.findall(r"(?:`|^ {4}|sudo |run: )make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert named <= TARGETS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO_ROOT)))
def test_every_file_that_a_page_names_is_there(page):
    rooms = "worker|endpoint|client|simulator|tests|benchmarks|docker|scripts|examples|docs"
    named = re.findall(rf"`((?:{rooms})/[\w./-]+)`", page.read_text())
    assert [name for name in named if not (REPO_ROOT / name).exists()] == []


def test_every_page_of_the_docs_is_in_their_index():
    index = (REPO_ROOT / "docs" / "README.md").read_text()
    pages = {path.name for path in (REPO_ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([a-z-]+\.md)", index))


def test_every_error_has_its_row_in_the_operations_page():
    rows = re.findall(r"^\| `([A-Z_]+)` \|", (REPO_ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(code.value for code in Code)
