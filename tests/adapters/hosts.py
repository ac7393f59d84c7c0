"""Stand-ins of traiNNer-redux and neosr: their registry, and how they build a network."""

from pathlib import Path

# As in traiNNer-redux 6862931; neosr 31c7022 has the same without .lower() and with another suffix.
REGISTRY = """
class Registry:
    def __init__(self, name):
        self._name = name
        self._obj_map = {}

    def _do_register(self, name, obj, suffix=None):
        if isinstance(suffix, str):
            name = name + "_" + suffix
        assert name not in self._obj_map, (
            f"An object named '{name}' was already registered in '{self._name}' registry!"
        )
        self._obj_map[name] = obj

    def register(self, obj=None, suffix=None):
        if obj is None:
            def deco(func_or_class):
                self._do_register(func_or_class.__name__.lower(), func_or_class, suffix)
                return func_or_class
            return deco
        self._do_register(obj.__name__.lower(), obj, suffix)

    def get(self, name, suffix="traiNNer"):
        name = name.lower()
        ret = self._obj_map.get(name)
        if ret is None:
            ret = self._obj_map.get(name + "_" + suffix)
        if ret is None:
            raise KeyError(f"No object named '{name}' found in '{self._name}' registry!")
        return ret

    def __contains__(self, name):
        return name.lower() in self._obj_map

    def __iter__(self):
        return iter(self._obj_map.items())

    def keys(self):
        return self._obj_map.keys()


ARCH_REGISTRY = Registry("arch")
"""
# Both import all files *_arch.py beside this one; neosr at the first network, traiNNer-redux here.
ARCHS = """
import importlib, pathlib
from HOST.utils.registry import ARCH_REGISTRY

for path in sorted(pathlib.Path(__file__).parent.glob("*_arch.py")):
    importlib.import_module(f"HOST.archs.{path.stem}")


def build_network(opt):
    opt = dict(opt)
    return ARCH_REGISTRY.get(opt.pop("type"))(**opt)
"""
# neosr reads the command line and the option file each time.
NET_OPT = """
OPTIONS = {"scale": 4, "datasets": {"train": {}}}


def net_opt():
    return OPTIONS["scale"], "train" in OPTIONS["datasets"]
"""


def write_trainner(root: Path) -> None:
    """Write a package traiNNer into ``root``."""
    _write(root, "traiNNer", REGISTRY)


def write_neosr(root: Path) -> None:
    """Write a package neosr into ``root``."""
    _write(root, "neosr", REGISTRY.replace(".lower()", "").replace('"traiNNer"', '"neosr"'))
    (root / "neosr" / "archs" / "arch_util.py").write_text(NET_OPT)


def _write(root, name, registry):
    for folder in (root / name, root / name / "utils", root / name / "archs"):
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    (root / name / "utils" / "registry.py").write_text(registry)
    (root / name / "archs" / "__init__.py").write_text(ARCHS.replace("HOST", name))
