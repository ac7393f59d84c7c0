"""Pages: links lead somewhere, tables are those of their scripts, and the README is short."""

import re
import runpy

import pytest

from contrast_arch.cli import PARSER
from contrast_arch.pipeline import command_line
from contrast_arch.weights import pretrained_names
from tests.conftest import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "weights" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks/results").glob("*.md")),
]


# A command in a code block or a span of code, of a page or a docstring.
COMMAND = re.compile(r"(contrast-(?:arch [a-z-]+|train|test))\b([^`\n]*)")


def _anchors(text):
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _dead_links(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not link.startswith("http") and (
            not target.exists() or (anchor and anchor not in _anchors(target.read_text()))
        ):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert list(_dead_links(page)) == []


def test_a_dead_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](nowhere.md) [b](#one-heading) [c](#other) [d](https://example.com)\n")
    assert list(_dead_links(page)) == ["nowhere.md", "#other"]


@pytest.mark.parametrize("name, most", [("README.md", 130), ("CONTRIBUTING.md", 100)])
def test_a_page_is_short(name, most):
    assert len((ROOT / name).read_text().splitlines()) <= most


TABLES = runpy.run_path(str(ROOT / "docs" / "tables.py"))


@pytest.mark.parametrize("path", [path for path in TABLES["PAGES"] if TABLES["MARK"].search(path.read_text())])
def test_a_page_has_the_tables_of_its_script(path):
    text = path.read_text()
    emptied = re.sub(rf"({TABLES['MARK'].pattern}\n).*?<!-- end -->", r"\1<!-- end -->", text, flags=re.DOTALL | re.M)
    assert emptied != text and TABLES["page"](path, emptied) == text, "run: python docs/tables.py"


QUOTED = re.compile(r"<!-- (\S+\.md) -->\n(.*?)<!-- end -->", re.DOTALL)


def test_a_quoted_table_is_that_of_its_file():
    quotes = [(page, *found) for page in PAGES for found in QUOTED.findall(page.read_text())]
    assert len(quotes) >= 3
    for page, name, text in quotes:
        file = ROOT / name if (ROOT / name).exists() else page.parent / name
        assert file.read_text() == text or file.read_text() == f"{text}\n", f"{page.name}: {name}"


def _parsers():
    """Command -> its parser."""
    (commands,) = (action for action in PARSER._actions if action.dest == "command")
    found = {f"contrast-arch {name}": parser for name, parser in commands.choices.items()}
    return found | {f"contrast-{kind}": command_line(kind == "train") for kind in ("train", "test")}


def _unknown_flags(text):
    parsers = _parsers()
    text = text.replace("\\\n", " ")
    code = [line for line in text.splitlines() if line.startswith("    ")] + re.findall(r"`([^`]+)`", text)
    for command, rest in COMMAND.findall("\n".join(code)):
        # Behind these another command begins.
        rest = re.split(r"[#|;&]|\s{2,}", rest)[0]
        flags = re.findall(r"(?<=[\s\[(])--?[a-zA-Z][\w-]*", rest)
        known = parsers[command]._option_string_actions if command in parsers else ()
        yield from (f"{command} {flag}" for flag in flags if flag not in known)


SOURCES = [*PAGES, *sorted((ROOT / "benchmarks").glob("*.py")), *sorted((ROOT / "contrast_arch").rglob("*.py"))]


def test_flags_of_commands_exist():
    found = {flag for source in SOURCES for flag in _unknown_flags(source.read_text())}
    assert found == set()


def test_an_unknown_flag_is_found():
    page = "Call `contrast-arch export A --halve` or\n\n    contrast-train -opt a.yml --auto_resume --again  # --not\n"
    assert list(_unknown_flags(page)) == ["contrast-train --again", "contrast-arch export --halve"]


def test_weights_named_on_pages_ship():
    names = {name for page in PAGES for name in re.findall(r"load_pretrained\(\"([^\"./]+)\"", page.read_text())}
    assert names and names <= set(pretrained_names())
