"""The networks in traiNNer-redux and neosr."""

import copy
import importlib
import json
import sys
import warnings

import pytest
import torch
import yaml
from safetensors.torch import save_file

from contrast_arch import load_pretrained
from contrast_arch.registration import networks
from tests.adapters.hosts import write_neosr, write_trainner
from tests.conftest import TINY

# Adapter -> name of the host, its package, and what writes a stand-in of it.
HOSTS = {"trainner": ("traiNNer-redux", "traiNNer", write_trainner), "neosr": ("neosr", "neosr", write_neosr)}
WAYS = ("adapter first", "host first", "drop-in file")
# Windows and heads are such that shapes alone do not say them.
SIZES = {"dims": 12, "depths": [1, 1], "num_heads": [3, 3], "window_size": 8}


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Call with an adapter and a way: ``build_network`` of its stand-in, and the keys of its registry.

    The option file says a scale of 2. ``own`` is the text of a file of networks in the host.
    """
    modules = set(sys.modules)

    def start(adapter, way=WAYS[0], own=""):
        _, package, write = HOSTS[adapter]
        write(tmp_path)
        (tmp_path / package / "archs" / "own_arch.py").write_text(own)
        if way == "drop-in file":
            (tmp_path / package / "archs" / "x_arch.py").write_text(f"import contrast_arch.adapters.{adapter}\n")
        monkeypatch.syspath_prepend(tmp_path)
        names = [f"{package}.archs", f"contrast_arch.adapters.{adapter}"]
        for module in {"adapter first": names[::-1], "host first": names, "drop-in file": names[:1]}[way]:
            importlib.import_module(module)
        archs = sys.modules[names[0]]
        if adapter == "neosr":
            importlib.import_module("neosr.archs.arch_util").OPTIONS["scale"] = 2
            return archs.build_network, archs.ARCH_REGISTRY.keys()
        return lambda opt: archs.build_network({"scale": 2, **opt}), archs.ARCH_REGISTRY.keys()

    yield start
    for module in set(sys.modules) - modules:
        if module.split(".")[0] in ("neosr", "traiNNer") or module.startswith("contrast_arch.adapters."):
            del sys.modules[module]


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("adapter", HOSTS)
def test_one_import_registers_all(start, adapter, way):
    build, keys = start(adapter, way)
    assert sorted(keys) == sorted(name.lower() for name in networks())
    for name, cls in networks().items():
        torch.manual_seed(0)
        network = build({"type": name.lower(), **SIZES})
        torch.manual_seed(0)
        assert type(network) is cls and network.upscale == 2 and same(network, cls(upscale=2, **SIZES))


@pytest.mark.parametrize("adapter", HOSTS)
def test_two_factors(start, adapter):
    build, _ = start(adapter)
    assert build({"type": "contrast", "upscale": 2, **SIZES}).upscale == 2
    with pytest.raises(ValueError, match="network_g: upscale=4, and scale=2 at the top of the option file: expected"):
        build({"type": "contrast", "upscale": 4, **SIZES})
    with pytest.raises(TypeError, match=r"Contrast has no argument 'dim'; did you mean dims"):
        build({"type": "contrast", "dim": 12})


OWN = """
from {}.utils.registry import ARCH_REGISTRY
@ARCH_REGISTRY.register()
def contrastnope(scale=2, **kwargs):
    return "its own", scale
"""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("adapter", HOSTS)
def test_a_factory_of_the_users_own_stays(start, adapter, way):
    host, package, _ = HOSTS[adapter]
    with pytest.warns(UserWarning, match=f"are taken in {host}'s registry, .*'contrastnope_contrast_arch'"):
        build, _ = start(adapter, way, OWN.format(package))
    assert build({"type": "contrastnope"}) == ("its own", 2)
    network = build({"type": "contrastnope_contrast_arch", **SIZES})
    assert type(network) is networks()["ContrastNoPE"] and network.upscale == 2


def loads_as(path, network):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_pretrained(path)
    image = torch.rand(1, 3, 9, 7)
    assert type(loaded) is type(network) and same(loaded, network)
    assert torch.equal(loaded(image), network.eval()(image))


@pytest.mark.parametrize("file", ["net_g_ema_4.safetensors", "net_g_ema_4.pth", "resume_models/net_g_4.pth"])
def test_checkpoints_of_trainner_say_their_network(start, tmp_path, file):
    """As traiNNer-redux saves them, with what ``hyperparameters`` says; EMA is over a copy of the network."""
    network = copy.deepcopy(start("trainner")[0]({"type": "contrastnope", **SIZES}))
    path = tmp_path / "models" / file
    path.parent.mkdir(parents=True)
    if path.suffix == ".safetensors":
        save_file(network.state_dict(), path, {"metadata": json.dumps(network.hyperparameters)})
    else:
        key = "params_ema" if "ema" in file else "params"
        torch.save({"metadata": network.hyperparameters, key: network.state_dict()}, path)
    loads_as(path, network)


@pytest.mark.parametrize("suffix", [".yml", ".toml"])
def test_the_option_file_beside_a_checkpoint(tmp_path, suffix):
    """Of traiNNer-redux without metadata, and of neosr."""
    if suffix == ".toml":
        pytest.importorskip("tomllib")  # of Python 3.11
    network = networks()["ContrastNoPE"](upscale=2, **SIZES)
    network_g = {"type": "contrastnope", **SIZES}
    toml = "scale = 2\n[network_g]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in network_g.items())
    options = toml if suffix == ".toml" else yaml.safe_dump({"scale": 2, "network_g": network_g})
    (tmp_path / f"a_20250101_120000{suffix}").write_text(options)
    (tmp_path / "train_a_20250101_120000.log").write_text("01-01-2025 12:00 PM | INFO: AMP disabled.\n")
    (tmp_path / "models").mkdir()
    torch.save({"params": network.state_dict()}, tmp_path / "models" / "net_g_4.pth")
    loads_as(tmp_path / "models" / "net_g_4.pth", network)


def test_an_option_file_of_basicsr_keeps_its_upscale(tmp_path):
    """There ``scale`` is of the images, and the network has its own."""
    network = networks()["Contrast"](**{key: value for key, value in TINY.items() if key != "type"})
    (tmp_path / "models").mkdir()
    (tmp_path / "a.yml").write_text(yaml.safe_dump({"scale": 2, "network_g": TINY}))
    save_file(network.state_dict(), tmp_path / "models" / "net_g_4.safetensors")
    loads_as(tmp_path / "models" / "net_g_4.safetensors", network)
