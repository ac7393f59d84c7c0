"""Registration with BasicSR: by every order of imports, into every kind of BasicSR, beside a host's own classes."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

import contrast_arch
from contrast_arch import register_in, registration
from contrast_arch.networks import MODULE, class_names
from tests.conftest import NETWORKS, ROOT, run_python

INSTALLED = Path(importlib.util.find_spec("basicsr").origin).parent
REGISTRY = INSTALLED / "utils" / "registry.py"

REPORT = f"""
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
print(sum(ARCH_REGISTRY._obj_map.get(name).__module__ == {MODULE!r} for name in {class_names()}))
print(MODEL_REGISTRY._obj_map["ContrastModel"].__module__ if "ContrastModel" in MODEL_REGISTRY else "no model")
"""
BOTH = [str(len(class_names())), "contrast_arch.models.contrast_model"]
NETWORKS_ALONE = [str(len(class_names())), "no model"]
OLD_TORCHVISION = """
import types, torchvision.transforms.functional as f
sys.modules["torchvision.transforms.functional_tensor"] = m = types.ModuleType("functional_tensor")
m.rgb_to_grayscale = f.rgb_to_grayscale
"""
TRIED_FIRST = """
try:
    import basicsr
except ImportError as error:
    print(error, file=sys.stderr)
import contrast_arch, basicsr
"""
RELOADED = """
import contrast_arch, basicsr, importlib
importlib.reload(contrast_arch)
importlib.reload(contrast_arch.registration)
contrast_arch.registration.register()
"""
FOUND_LATER = """
import contrast_arch
assert "basicsr" not in sys.modules
sys.path.insert(0, "later")
import basicsr
assert basicsr.__file__.endswith("later/basicsr/__init__.py"), basicsr.__file__
"""
# A host's own network of the same name: before ours, after ours, and again by a name that ours has already lost.
OWN_BEFORE = """
from basicsr.utils.registry import ARCH_REGISTRY
@ARCH_REGISTRY.register()
class Contrast: pass
@ARCH_REGISTRY.register()
class HATLight: pass
import contrast_arch
"""
OWN_AFTER = """
import contrast_arch
from basicsr.utils.registry import ARCH_REGISTRY
@ARCH_REGISTRY.register()
class Contrast: pass
ARCH_REGISTRY.register(type("HATLight", (), {"__module__": "__main__", "__qualname__": "HATLight"}))
"""
OWNERS = """
for name in ("Contrast", "HATLight", "MambaLight"):
    print(ARCH_REGISTRY.get(name).__module__)
for name in ("Contrast_contrast_arch", "HATLight_contrast_arch"):
    cls = ARCH_REGISTRY.get(name)
    print(cls.__name__, cls.__mro__[1].__module__, sum(p.numel() for p in cls(depths=[1], num_heads=[6]).parameters()))
"""
TAKEN = """
ARCH_REGISTRY.register(type("Contrast", (), {}))
"""
SUFFIXED = """
import contrast_arch
from basicsr.utils.registry import ARCH_REGISTRY
@ARCH_REGISTRY.register(suffix="basicsr")
class Contrast: pass
print(sorted(name for name in ARCH_REGISTRY.keys() if name.startswith("Contrast_b")))
"""
CUT_DOWN = """
import contrast_arch
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
assert MODEL_REGISTRY.get("SRModel") is SRModel
"""

PROGRAMS = {
    "before": "import contrast_arch, basicsr",
    "after": OLD_TORCHVISION + "import basicsr, contrast_arch",
    "tried first": TRIED_FIRST,
    "between": OLD_TORCHVISION + "import basicsr.utils, contrast_arch, basicsr.train",
    "twice": "import contrast_arch, basicsr, contrast_arch",
    "reloaded": RELOADED,
    "found later": FOUND_LATER,
    "drop-in": "sys.path.insert(0, 'drop_in'); import basicsr",
    "two drop-ins": "sys.path.insert(0, 'two_drop_ins'); import basicsr",
    "first line of archs": "sys.path.insert(0, 'first_line'); import basicsr",
    "last line of archs": "sys.path.insert(0, 'last_line'); import basicsr",
    "drop-in where models come first": "sys.path.insert(0, 'lazy'); from basicsr.models.sr_model import SRModel",
}
OTHERS = {
    "only a registry": "sys.path.insert(0, 'registry_alone'); import contrast_arch, basicsr.utils.registry" + REPORT,
    "an SRModel that lacks something": "sys.path.insert(0, 'cut_down')" + CUT_DOWN + REPORT,
    "own before": OLD_TORCHVISION + OWN_BEFORE + OWNERS,
    "own after": OWN_AFTER + OWNERS,
    "own after, twice": OWN_AFTER + TAKEN,
    "suffix": SUFFIXED,
    "a BasicSR that fails": "sys.path.insert(0, 'broken'); import contrast_arch; print('here'); import basicsr",
    "a successor": "sys.path.insert(0, 'successor'); import contrast_arch, neosr, traiNNer.utils.registry as r; "
    "print(list(r.ARCH_REGISTRY.keys()), 'basicsr' in sys.modules)",
    "attributes": "import contrast_arch; print(contrast_arch.ops.ss2d_scan.__name__, contrast_arch.archs.__name__, "
    "contrast_arch.load_pretrained.__name__, 'Contrast' in dir(contrast_arch), hasattr(contrast_arch, 'Contrasts'), "
    "'basicsr' in sys.modules)",
    "an old PyTorch": "del torch.library.custom_op; import contrast_arch; contrast_arch.Contrast",
    "star": "from contrast_arch import *; print(Contrast.__name__, register_in.__name__, __version__)",
}


def copied(folder: Path, **changes: str) -> None:
    """A copy of the installed BasicSR in ``folder``; ``changes`` are texts of files, "+" for "/" in their names."""
    shutil.copytree(INSTALLED, folder / "basicsr", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name, text in changes.items():
        path = folder / "basicsr" / name
        path.write_text(text.replace("{}", path.read_text() if path.exists() else ""))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("registration")
    importing = "import contrast_arch\n"
    copied(root / "later")
    copied(root / "drop_in", **{"archs/x_arch.py": importing})
    copied(root / "two_drop_ins", **{"archs/a_arch.py": "from contrast_arch import *\n", "archs/x_arch.py": importing})
    copied(root / "first_line", **{"archs/__init__.py": importing + "{}"})
    copied(root / "last_line", **{"archs/__init__.py": "{}\n" + importing})
    copied(root / "lazy", **{"archs/x_arch.py": importing})
    (root / "lazy" / "basicsr" / "__init__.py").write_text("")
    for name, texts in {
        "registry_alone": {"basicsr/__init__.py": "", "basicsr/utils/__init__.py": ""},
        "cut_down": {
            "basicsr/__init__.py": "",
            "basicsr/utils/__init__.py": "",
            "basicsr/models/__init__.py": "",
            "basicsr/models/sr_model.py": "from basicsr.utils.registry import MODEL_REGISTRY\n"
            "@MODEL_REGISTRY.register()\nclass SRModel:\n    pass\n",
        },
        "broken": {"basicsr/__init__.py": "raise RuntimeError('operator torchvision::nms does not exist')"},
        "successor": {"neosr/__init__.py": "", "traiNNer/__init__.py": "", "traiNNer/utils/__init__.py": ""},
    }.items():
        for file, text in texts.items():
            (root / name / file).parent.mkdir(parents=True, exist_ok=True)
            (root / name / file).write_text(text)
    for folder in ("registry_alone/basicsr", "cut_down/basicsr", "successor/traiNNer"):
        shutil.copy(REGISTRY, root / folder / "utils")
    programs = {name: {"code": code + REPORT, "folder": str(root)} for name, code in PROGRAMS.items()}
    programs |= {name: {"code": code, "folder": str(root)} for name, code in OTHERS.items()}
    (root / "programs.json").write_text(json.dumps(programs))
    result = run_python(root, str(ROOT / "tests" / "forked.py"), "programs.json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_order_of_imports(results, name):
    found = results[name]
    assert (found["code"], found["out"].splitlines()[-2:]) == (0, BOTH), found["err"]
    warned = [line for line in found["err"].splitlines() if "contrast_arch" in line]
    assert warned == [], found["err"]


def test_the_first_import_of_basicsr_may_fail(results):
    assert "No module named 'torchvision.transforms.functional_tensor'" in results["tried first"]["err"]


def test_networks_register_where_the_model_cannot(results):
    found = results["only a registry"]
    assert (found["out"].split("\n")[:2], found["err"]) == (NETWORKS_ALONE, "")
    found = results["an SRModel that lacks something"]
    assert found["out"].split("\n")[:2] == NETWORKS_ALONE, found["err"]
    assert (
        "ContrastModel is not registered, it does not run with this BasicSR: it needs the SRModel of BasicSR 1.3.4"
        in found["err"]
    )


@pytest.mark.parametrize("name", ["own before", "own after"])
def test_a_host_keeps_its_own_networks(results, name):
    found = results[name]
    lines = found["out"].splitlines()
    assert lines[:3] == ["__main__", "__main__", "contrast_arch.archs.contrast_arch"], found["err"]
    of = "contrast_arch.archs.contrast_arch"
    assert lines[3:] == [f"Contrast_contrast_arch {of} 179176", f"HATLight_contrast_arch {of} 188602"]
    warnings = [line for line in found["err"].splitlines() if "Warning: " in line]
    assert len(warnings) == {"own before": 1, "own after": 2}[name]
    assert "taken in BasicSR's registry, and stay so: 'Contrast' is __main__.Contrast" in warnings[0]
    assert "'Contrast_contrast_arch'" in warnings[0] and "'HATLight' is __main__.HATLight" in warnings[-1]


def test_a_host_may_not_take_a_name_twice(results):
    """As BasicSR has it: only what is ours gives way."""
    found = results["own after, twice"]
    assert found["code"] == 1
    assert "AssertionError: An object named 'Contrast' was already registered in 'arch' registry!" in found["err"]


def test_a_suffix_is_another_name(results):
    assert results["suffix"]["out"] == "['Contrast_baseline_first', 'Contrast_basicsr']\n", results["suffix"]["err"]


def test_a_broken_basicsr_fails_with_its_own_error(results):
    found = results["a BasicSR that fails"]
    assert (found["code"], found["out"]) == (1, "here\n")
    assert found["err"].splitlines()[-1] == "RuntimeError: operator torchvision::nms does not exist"
    assert "Warning" not in found["err"]


def test_successors_of_basicsr_are_left_alone(results):
    assert (results["a successor"]["out"], results["a successor"]["err"]) == ("[] False\n", "")


def test_public_names_are_imported_when_they_are_used(results):
    expected = "ss2d_scan contrast_arch.archs load_pretrained True False False\n"
    assert results["attributes"]["out"] == expected, results["attributes"]["err"]
    assert results["star"]["out"].split()[:2] == ["Contrast", "register_in"], results["star"]["err"]


def test_an_old_pytorch_is_named(results):
    last = results["an old PyTorch"]["err"].splitlines()[-1]
    assert last.startswith("ImportError: contrast_arch needs PyTorch 2.4 or later, and this is 2.")
    assert last.endswith(": pip install --upgrade torch torchvision")


HEAVY = ("torch", "scipy", "cv2", "torchvision", "matplotlib", "numba", "basicsr", "triton", "pydantic")


@pytest.mark.parametrize("code", ["import contrast_arch", "from contrast_arch.cli import main; main([])"])
def test_nothing_heavy_is_imported(tmp_path, code):
    """Neither by the package nor by the command line's help."""
    program = f"import sys, contextlib\nwith contextlib.suppress(SystemExit):\n    {code}\n"
    result = run_python(tmp_path, "-c", program + f"print([name for name in {HEAVY} if name in sys.modules])")
    assert result.stdout == "[]\n", result.stderr


def test_the_networks_import_little_more_than_torch(tmp_path):
    """Pydantic checks their arguments."""
    program = f"import sys, contrast_arch; contrast_arch.Contrast\nprint([n for n in {HEAVY} if n in sys.modules])"
    result = run_python(tmp_path, "-c", program)
    assert result.stdout == "['torch', 'pydantic']\n", result.stderr


class Registry:
    """One that is not BasicSR's."""

    def __init__(self, **objects):
        self.objects = objects

    def register(self, obj):
        self.objects[obj.__name__] = obj

    def get(self, name):
        return self.objects[name]

    def __contains__(self, name):
        return name in self.objects


def test_registries_of_others():
    registry = Registry()
    register_in(registry)
    assert registry.objects == registration.networks() and list(registry.objects) == list(class_names())
    with pytest.warns(UserWarning, match="'small' is .*Registry. Write 'small_contrast_arch'"):
        register_in(registry := Registry(small=Registry), {"small": registration.networks()["Contrast"]})
    assert registry.get("small") is Registry
    assert issubclass(registry.get("small_contrast_arch"), registration.networks()["Contrast"])


def test_the_package_has_the_networks_of_the_table():
    found = {name: getattr(contrast_arch, name) for name in contrast_arch.__all__}
    assert {name for name, value in found.items() if isinstance(value, type)} == {"Tiler", *NETWORKS}
    assert set(contrast_arch.__all__) <= set(dir(contrast_arch))


WITHOUT_BASICSR = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("basicsr", "cv2"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.split(".")[0] == "basicsr" else find_spec(name, *a)
"""


def test_networks_work_without_basicsr(tmp_path):
    code = WITHOUT_BASICSR + (
        "import torch, contrast_arch; net = contrast_arch.Contrast(dims=12, depths=[1], num_heads=[2], window_size=4); "
        "print(tuple(net(torch.rand(1, 3, 5, 6)).shape), 'basicsr' in sys.modules)"
    )
    result = run_python(tmp_path, "-c", code)
    assert result.stdout.strip() == "(1, 3, 20, 24) False", result.stderr


def test_training_without_basicsr_says_how_to_install_it(tmp_path):
    code = WITHOUT_BASICSR + "from contrast_arch.train import main; sys.exit(main())"
    result = run_python(tmp_path, "-c", code, "-opt", "nothing.yml")
    assert result.returncode == 1
    assert result.stderr.startswith("error: BasicSR is not installed: pip install torch")
    assert len(result.stderr.splitlines()) == 1
