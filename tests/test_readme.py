"""Commands and Python code of the README work."""

import re
import shlex
import textwrap

import pytest
from PIL import Image

from contrast_arch import cli
from contrast_arch.pipeline import command_line
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
# Commands of the README, and the file that runs each, with other images and networks: the set-up of make, or tests.
RUN_BY = {
    "pip install": "Makefile",
    "contrast-arch bench": "tests/experiments/test_bench.py",
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


def test_targets_of_make_exist():
    files = ("README.md", "CONTRIBUTING.md", "docs/installation.md", ".github/workflows/tests.yml", ".ci/run")
    named = {
        name for file in files for name in re.findall(r"(?:`|    |run: |exec )make ([a-z]+)", (ROOT / file).read_text())
    }
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert {"demo", "quick", "setup", "smoke", "test"} <= named <= {*targets}
