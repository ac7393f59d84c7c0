"""Pages: links lead somewhere, tables are those of their scripts, and what the README says works."""

import re
import runpy
import shlex
import textwrap

import pytest
from PIL import Image

from contrast_arch import cli
from contrast_arch.experiments.markdown import fill
from contrast_arch.pipeline import command_line
from tests.conftest import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks/results").glob("*.md")),
]


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


@pytest.mark.parametrize("name", ["arguments", "options", "speed"])
def test_a_page_has_the_tables_of_its_script(name):
    script = runpy.run_path(str(ROOT / "docs" / f"{name}.py"))
    text = script["PAGE"].read_text()
    assert script["page"](fill(text, f"docs/{name}.py", [])) == text, f"run: python docs/{name}.py"


README = (ROOT / "README.md").read_text()
# Commands of the README, and the file that runs each, with other images and networks: the set-up of make, or tests.
RUN_BY = {
    "pip install": "Makefile",
    "contrast-arch bench": "tests/experiments/test_bench_command.py",
    "contrast-arch check": "tests/check/test_command.py",
    "contrast-arch compare": "tests/experiments/test_compare.py",
    "contrast-arch options": "tests/options/test_generate.py",
    "contrast-arch prepare": "tests/prepare/test_prepare.py",
    "contrast-arch report": "contrast_arch/demo.py",
    "contrast-arch upscale": "tests/inference/test_files.py",
    "contrast-test -opt": "tests/test_pipeline.py",
    "contrast-train -opt": "tests/test_pipeline.py",
    "make demo": "Makefile",
    "make test": "Makefile",
}


def _commands(text):
    """Commands of a page, as lists of words: lines of its code blocks, and what stands in backquotes."""
    lines = re.findall(r"^    (\S.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+ [^`\n]+)`", text)
    return [
        shlex.split(line, comments=True)
        for line in lines
        if re.match(r"(contrast-\w+|pip|make|python\d?|git|cd|conda|export|bash|sh) ", line)
    ]


COMMANDS = _commands(README)
# Without the mere names.
CALLS = [words for words in COMMANDS if "contrast" in words[0] and len(words) > 2]


def test_every_command_of_the_readme_is_run():
    assert {" ".join(words[:2]) for words in COMMANDS} == set(RUN_BY)
    for command, file in RUN_BY.items():
        *_, word = command.removesuffix(" -opt").replace("contrast-t", "contrast t").split()
        assert re.search(rf"\b{word}\b", (ROOT / file).read_text()), f"{file} does not run {command}"


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_arguments_of_the_readme_are_known(words):
    program, *arguments = words
    parser = cli.PARSER if program == "contrast-arch" else command_line(program == "contrast-train")
    parser.parse_args(arguments)


def test_a_new_command_is_found():
    text = "Now `make coffee`, or\n\n    contrast-arch dance --slowly  # or fast\n    import os\n"
    assert _commands(text) == [["contrast-arch", "dance", "--slowly"], ["make", "coffee"]]


def test_an_image_and_an_option_file_by_the_words_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 7)).save("photo.jpg")
    for words in CALLS:
        if words[1] in ("upscale", "options") and "--model" not in words:
            assert cli.main(words[1:]) == 0
    with Image.open("large/photo.jpg") as image:
        assert image.size == (36, 28)
    (file,) = {words[words.index("-opt") + 1] for words in CALLS if words[0] == "contrast-train"}
    assert (tmp_path / file).is_file()
    assert all((ROOT / word).is_file() for words in CALLS for word in words if word.startswith("options/test"))


def test_the_python_of_the_readme_runs():
    code = textwrap.dedent(re.search(r"^    import contrast_arch, torch\n(    .*\n|\n)+", README, re.MULTILINE)[0])
    names = {}
    exec(code, names)
    assert names["sr"].shape == (1, 3, 244, 188)
