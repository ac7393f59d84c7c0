"""The sdist, the wheel that is built from it, and the extras."""

import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from contrast_arch.version import __version__
from tests.conftest import ROOT

PYPROJECT = (ROOT / "pyproject.toml").read_text()
SHIPPED = {
    str(path.relative_to(ROOT))
    for pattern in ("options/**/*.yml", "options/schema.json", "weights/*.safetensors")
    for path in ROOT.glob(pattern)
}
CODE = {str(p.relative_to(ROOT)) for name in ("*.py", "templates/*") for p in (ROOT / "contrast_arch").rglob(name)}
METADATA = {"PKG-INFO", "SOURCES.txt", "dependency_links.txt", "entry_points.txt", "requires.txt", "top_level.txt"}


def build(source, kind):
    """Build in ``source``, with the setuptools that is installed; return the file."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}('dist'))"
    result = subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, text=True)
    return source / "dist" / result.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist and the wheel; built in a copy, because a build leaves its folders behind."""
    root = tmp_path_factory.mktemp("built")
    for folder in ("contrast_arch", "options", "weights"):
        shutil.copytree(ROOT / folder, root / "source" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "source" / "tests").mkdir()
    for file in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "tests/test_packaging.py"):
        shutil.copy(ROOT / file, root / "source" / file)
    sdist = build(root / "source", "sdist")
    with tarfile.open(sdist) as file:
        file.extractall(root, filter="data")
    return sdist, build(root / f"contrast_arch-{__version__}", "wheel")


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    with tarfile.open(built[0]) as file:
        names = {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}
    written = {"PKG-INFO", "setup.cfg", *(f"contrast_arch.egg-info/{name}" for name in METADATA)}
    kept = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"}
    assert names == written | kept | SHIPPED | CODE


def test_the_wheel_holds_options_and_weights(built, tmp_path):
    names = zipfile.ZipFile(built[1]).namelist()
    assert {n for n in names if ".dist-info/" not in n} == {f"contrast_arch/shipped/{name}" for name in SHIPPED} | CODE
    assert len(SHIPPED) > 90 and [name for name in names if name.endswith("LICENSE")]
    zipfile.ZipFile(built[1]).extractall(tmp_path)
    found = runpy.run_path(str(tmp_path / "contrast_arch" / "files.py"))
    weights = {path.name for path in found["shipped"]("weights").glob("*.safetensors")}
    assert weights == {path.name for path in (ROOT / "weights").glob("*.safetensors")}
    assert found["option_files"]() == tmp_path / "contrast_arch" / "shipped" / "options"


def test_what_is_needed_is_on_the_page_with_what_was_tried():
    page = (ROOT / "docs" / "installation.md").read_text()
    rows = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| [^|]*\d[^|]* \|$", page, re.MULTILINE))
    needed = re.findall(r'"([\w-]+)>=([\d.]+)[,<\d.]*"', PYPROJECT.partition("[project.optional-dependencies]")[0])
    assert len(needed) == 9 and dict(needed[1:]).items() <= rows.items()  # without setuptools
    assert all(f'"{name}>={bound}' in PYPROJECT for name, bound in rows.items())
    extras = re.findall(
        r"^(\w+) = \[\n? *\"", PYPROJECT.partition("optional-dep")[2].partition("scripts]")[0], re.MULTILINE
    )
    assert len(extras) == 7 and {*extras} <= {*re.findall(r"`\[(\w+)\]`", page)}


def test_the_version_stands_everywhere():
    assert re.search(rf"^version: {re.escape(__version__)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == __version__
