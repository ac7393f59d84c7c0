"""The networks in spandrel: what is found, that it is right, and that spandrel's own networks stay its own."""

import importlib
import warnings

import pytest
import spandrel
import torch
from safetensors.torch import save_file

from contrast_arch import load_pretrained
from contrast_arch.adapters.spandrel import install
from contrast_arch.errors import InputError
from contrast_arch.weights import describe_pretrained, pretrained_names
from contrast_arch.weights.exporting import _published_buffers
from contrast_arch.weights.shapes import config_of, own_networks
from contrast_arch.weights.sources import shipped_file
from tests.conftest import NETWORKS, TINY
from tests.models.building import weights
from tests.weights.test_load import network

SMALL = {"depths": [1], "num_heads": [2], "embed_dim": 12, "window_size": 4}
SPLIT = {"depth": [1], "num_heads": [2], "embed_dim": 12, "split_size": [2, 4], "img_size": 16}
# Of spandrel's networks those whose names come near, small.
NEAR = {
    "HAT": {**SMALL, "img_size": 16, "upsampler": "pixelshuffle"},
    "SwinIR": {**SMALL, "img_size": 16, "upsampler": "pixelshuffle"},
    "Swin2SR": {**SMALL, "img_size": 16, "upsampler": "pixelshuffledirect"},
    "GRL": {"depths": [1], "num_heads_window": [2], "num_heads_stripe": [2], "embed_dim": 12, "img_size": 16},
    "DAT": SPLIT,
    "RGT": SPLIT,
    "ATD": {"depths": [2], "num_heads": [2], "embed_dim": 12},
    "CRAFT": SMALL,
    "DRCT": {**SMALL, "img_size": 16, "upsampler": "pixelshuffle", "gc": 4},
    "ESRGAN": {"num_blocks": 1, "num_filters": 8},
}
# Names of networks that spandrel has in another package, or not.
ELSEWHERE = {
    "MambaIR": "ln_1.weight skip_scale self_attention.in_proj.weight self_attention.x_proj_weight "
    "self_attention.A_logs conv_blk.cab.0.weight",
    "SRFormer": "norm1.weight attn.q.weight attn.kv.weight attn.relative_position_bias_table mlp.fc1.weight",
    # The block of mamba_ssm under our name of the mixer.
    "mamba_ssm": "norm1.weight mamba.in_proj.weight mamba.x_proj.weight mamba.A_log mlp.fc1.weight",
}
AUTHORS = {
    "Contrast_baseline_first": "Contrast",
    "Contrast_no_pe": "ContrastNoPE",
    "Contrast_no_pe_no_ca": "ContrastNoPENoCA",
    "Contrast_no_pe_no_cab": "ContrastNoPENoCA",
    "MambaSR": "MambaLight",
}


@pytest.fixture
def registry():
    """spandrel's main registry with our networks, for this test alone."""
    registry = spandrel.MAIN_REGISTRY.copy()
    install(registry)
    return registry


@pytest.fixture
def loader(registry):
    return spandrel.ModelLoader(registry=registry)


def detected(registry, state):
    """Name of the architecture that a registry takes for a state dict."""
    state = spandrel.canonicalize_state_dict(state)
    found = (support.architecture.id for support in registry.architectures("detection") if support.detect(state))
    return next(found, None)


def image(net, height=9, width=7):
    return torch.rand(1, net.in_chans, height, width, generator=torch.Generator().manual_seed(0))


def agree(found, net, within=0.0):
    with torch.no_grad():
        expected = net(image(net)).clamp(0, 1)
    return (found(image(net)) - expected).abs().max() <= within


def test_install_adds_once():
    """To the registry of all loaders unless another is given."""
    assert install.__defaults__ == (spandrel.MAIN_REGISTRY,)
    registry = spandrel.MAIN_REGISTRY.copy()
    assert [support.architecture.id for support in install(registry)] == NETWORKS
    assert install(registry) == []
    order = [support.architecture.id for support in registry.architectures("detection")]
    assert max(map(order.index, NETWORKS)) < order.index("HAT")


@pytest.mark.parametrize("name", NEAR)
def test_networks_of_spandrel_stay_its_own(registry, name):
    architecture = importlib.import_module(f"spandrel.architectures.{name}")
    state = getattr(architecture, name)(**NEAR[name]).state_dict()
    assert detected(spandrel.MAIN_REGISTRY, state) == detected(registry, state) == name


@pytest.mark.parametrize("name", ELSEWHERE)
def test_networks_of_others_are_not_ours(registry, name):
    names = [f"layers.0.residual_group.blocks.0.{key}" for key in ELSEWHERE[name].split()]
    assert detected(registry, dict.fromkeys([*names, "conv_first.weight", "conv_last.weight"], torch.ones(1))) is None


@pytest.mark.parametrize("name", pretrained_names())
def test_shipped_weights(loader, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = loader.load_from_file(shipped_file(name))
    network_g = describe_pretrained(name)["network_g"]
    assert found.architecture.name == network_g["type"]
    assert agree(found, load_pretrained(name))
    scale = network_g["upscale"]
    assert (found.scale, found.input_channels, found.output_channels, found.purpose) == (scale, 3, 3, "SR")
    assert found.tags == ["light", f"{network_g.get('embed_dim', network_g.get('dims'))}dim", "w16"]
    assert found.tiling is spandrel.ModelTiling.SUPPORTED and found.size_requirements.none


@pytest.mark.parametrize("upsampler, upscale", [("pixelshuffle", 3), ("pixelshuffledirect", 2)])
@pytest.mark.parametrize("name", NETWORKS)
def test_exported_files(tmp_path, loader, name, upsampler, upscale):
    """With values that the shapes do not say; in half precision near to float32, and read from files in it."""
    changes = {"img_range": 2.0, "window_size": 6, "upscale": upscale, "upsampler": upsampler}
    changes |= {"overlap_ratio": 1.0, "num_heads": [3, 3]} if own_networks()[name].overlap_attention else {}
    net = network(type=name, **changes)
    state = weights(net) | config_of(net, {**TINY, **changes})
    save_file(state, tmp_path / "a.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = loader.load_from_file(tmp_path / "a.safetensors")
    assert found.architecture.id == name and found.scale == upscale
    assert found.supports_half and found.supports_bfloat16 and agree(found, net)
    dtype = torch.float16 if upscale == 2 else torch.bfloat16
    half = loader.load_from_state_dict({key: value.to(dtype) for key, value in state.items()})
    expected = half(image(net))
    assert (half.to(dtype)(image(net).to(dtype)).float() - expected).abs().max() < 8 * torch.finfo(dtype).eps


def test_without_the_config_defaults_are_named(loader):
    net = network(type="ContrastNoPE")
    with pytest.warns(UserWarning, match=r"num_heads=\[6, 6\]\. A \.safetensors of 'contrast-arch export' says them"):
        loader.load_from_state_dict(weights(net))


@pytest.mark.parametrize("name", AUTHORS)
@pytest.mark.parametrize("upsampler", ["pixelshuffle", "pixelshuffledirect"])
def test_files_of_the_author(loader, name, upsampler):
    """With the index buffers where that code has them; HAT's detection takes them for its own, but comes later."""
    net = network(type=name, window_size=16, num_heads=[6, 6], upsampler=upsampler)
    state = weights(net) | _published_buffers(net)
    with pytest.warns(UserWarning, match="img_range"):
        found = loader.load_from_state_dict({"params_ema": state})
    assert found.architecture.id == AUTHORS[name]
    assert agree(found, net)


@pytest.mark.parametrize("upsampler, owner", [("pixelshuffle", "HAT"), ("pixelshuffledirect", "HATLight")])
def test_hat_light_in_the_published_layout(registry, upsampler, owner):
    """HAT has "pixelshuffle" only."""
    net = network(type="HATLight", upsampler=upsampler)
    assert detected(registry, weights(net)) == "HATLight"
    assert detected(registry, weights(net) | _published_buffers(net)) == owner


@pytest.mark.parametrize("prefix", ["module.", "netG.", "_orig_mod.", "module._orig_mod.", "net_g.", "generator."])
def test_prefixes(loader, prefix):
    net = network()
    state = weights(net) | config_of(net, TINY)
    found = loader.load_from_state_dict({"state_dict": {f"{prefix}{key}": value for key, value in state.items()}})
    assert found.architecture.id == "Contrast" and agree(found, net)


@pytest.mark.parametrize("in_chans, num_out_ch", [(1, 1), (1, 3), (3, 1), (4, 4)])
def test_channels(loader, in_chans, num_out_ch):
    net = network(in_chans=in_chans, num_out_ch=num_out_ch)
    section = {**TINY, "in_chans": in_chans, "num_out_ch": num_out_ch}
    found = loader.load_from_state_dict(weights(net) | config_of(net, section))
    assert (found.input_channels, found.output_channels) == (in_chans, num_out_ch) and agree(found, net)


def test_a_part_of_a_network(loader):
    state = {key: value for key, value in weights(network()).items() if "upsample" not in key}
    with pytest.raises(InputError, match="checkpoint in spandrel holds no whole Contrast"):
        loader.load_from_state_dict(state)
