"""The rules of CONTRIBUTING.md that the source files show: which folder imports which, and docstrings."""

import ast
import re
from collections.abc import Iterator

import pytest

import contrast_arch
from tests.conftest import ROOT

PACKAGE = ROOT / "contrast_arch"
# Modules that every floor may import; they import none of the floors.
SHARED = {"compat", "errors", "files", "images", "launch", "memory", "networks", "parsing", "registration", "version"}
# A folder or module imports those before it.
FLOORS = ("ops", "layers", "archs", "weights", "inference", "options", "prepare", "check", "models", "training")
FLOORS += ("pipeline", "experiments", "demo", "cli")
# Those beside the floors, and the floors that they may import.
BESIDE = {
    "__init__": {"inference", "weights", "archs"},
    "adapters": {"archs", "weights"},
    "train": {"pipeline"},
    "test": {"pipeline"},
}
# Imports against the rule, (file, what it imports): one that is mended leaves this list.
EXCEPTIONS = {
    ("check/checkpoint.py", "models"),
    ("check/parts.py", "models"),
    ("check/schedule.py", "models"),
    ("weights/sources.py", "experiments"),
}
# Plain PyTorch, for where BasicSR cannot be installed.
WITHOUT_BASICSR = FLOORS[:5]
OPENINGS = re.compile(r"(What|Whether|Where|How)\b", re.IGNORECASE)
SOURCES = [path for name in ("contrast_arch", "tests", "benchmarks", "docs") for path in (ROOT / name).rglob("*.py")]


def imports(text: str) -> Iterator[str]:
    """Names that the import statements of a source file import, in functions too; public names by their home."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield contrast_arch._HOMES.get(alias.name, name) if node.module == "contrast_arch" else name


def room(module: str) -> str:
    """Folder or module of the package that a dotted name is in."""
    return f"{module}.__init__".split(".")[1]


def forbidden(source: str, target: str) -> bool:
    """True if a folder or module of the package must not import another."""
    if target in SHARED or source == target:
        return False
    if source in BESIDE:
        return target not in BESIDE[source]
    return source in SHARED or target not in FLOORS[: FLOORS.index(source)]


def test_every_folder_and_module_has_a_place():
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert found == {*SHARED, *FLOORS, *BESIDE}


def test_the_map_has_the_same_order():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(FLOORS)
    (shared,) = re.findall(r"^- Every file may import ([^.]*)\.", text, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", shared)) == SHARED


def test_imports_point_one_way():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        file = path.relative_to(PACKAGE)
        targets = [room(name) for name in imports(path.read_text()) if name.split(".")[0] == "contrast_arch"]
        found |= {(str(file), target) for target in targets if forbidden(file.parts[0].removesuffix(".py"), target)}
    assert sorted(found - EXCEPTIONS) == [], "imports against the rule"
    assert sorted(EXCEPTIONS - found) == [], "no exceptions any more: take them off the list"


def test_the_networks_are_plain_pytorch():
    paths = [path for name in WITHOUT_BASICSR for path in (PACKAGE / name).rglob("*.py")]
    assert len(paths) > 40
    assert [path for path in paths if any(name.split(".")[0] == "basicsr" for name in imports(path.read_text()))] == []


@pytest.mark.parametrize(
    "text, found",
    [
        ("def f():\n    from contrast_arch.training.loop import run", ["contrast_arch.training.loop.run"]),
        ("import contrast_arch.ops, torch", ["contrast_arch.ops", "torch"]),
        ("from contrast_arch import upscale", ["contrast_arch.inference.upscale"]),
    ],
)
def test_an_import_is_found(text, found):
    assert list(imports(text)) == found


@pytest.mark.parametrize(
    "source, target, is_forbidden",
    [
        ("layers", "ops", False),
        ("ops", "layers", True),
        ("ops", "errors", False),
        ("errors", "ops", True),
        ("check", "models", True),
        ("adapters", "weights", False),
        ("adapters", "check", True),
    ],
)
def test_a_forbidden_import_is_found(source, target, is_forbidden):
    assert forbidden(source, target) is is_forbidden


def openings(text: str) -> Iterator[str]:
    """First lines of docstrings that open as a clause."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node) or ""
            if OPENINGS.match(docstring):
                yield docstring.splitlines()[0]


def test_docstrings_open_with_a_noun_or_an_imperative():
    assert {str(path.relative_to(ROOT)): found for path in SOURCES if (found := [*openings(path.read_text())])} == {}


def test_an_opening_is_found():
    text = '"""However."""\ndef f():\n    """Whether it is.\n\n    More.\n    """\nclass A:\n    """How."""'
    assert list(openings(text)) == ["Whether it is.", "How."]
