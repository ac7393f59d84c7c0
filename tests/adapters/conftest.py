"""Packages of other programs that a test writes and imports."""

import importlib
import sys

import pytest

from tests.adapters.hosts import write_neosr, write_trainner

HOSTS = {"trainner": ("traiNNer", write_trainner), "neosr": ("neosr", write_neosr)}
WAYS = ("adapter first", "host first", "drop-in file")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Call with an adapter and a way: the archs of its stand-in, with the networks registered.

    ``own`` is the text of a file of networks in the host.
    """
    loaded = []

    def start(adapter, way=WAYS[0], own=""):
        name, write = HOSTS[adapter]
        loaded.append((name, f"contrast_arch.adapters.{adapter}"))
        write(tmp_path)
        (tmp_path / name / "archs" / "own_arch.py").write_text(own)
        if way == "drop-in file":
            (tmp_path / name / "archs" / "contrast_arch.py").write_text(f"import contrast_arch.adapters.{adapter}\n")
        monkeypatch.syspath_prepend(tmp_path)
        forget()
        names = [f"{name}.archs", f"contrast_arch.adapters.{adapter}"]
        for module in {"adapter first": names[::-1], "host first": names, "drop-in file": names[:1]}[way]:
            importlib.import_module(module)
        return sys.modules[f"{name}.archs"]

    def forget():
        for host, adapter in loaded:
            for module in [key for key in sys.modules if key.split(".")[0] == host or key == adapter]:
                del sys.modules[module]

    yield start
    forget()
