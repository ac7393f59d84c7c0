"""Arguments of the networks: signature, help, page and checks are those of one dataclass."""

import copy
import inspect
import pickle
import pydoc

import pytest
import torch

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.archs.config import ARGUMENTS, DEFAULTS, OPTIONAL, Config
from contrast_arch.archs.network import SRNetwork
from contrast_arch.networks import AUTHORS_NAMES
from tests.archs.test_networks import build
from tests.conftest import RECORDED, ROOT

AUTHORS = {"ssm_conv_bias": True, "depths": (6,) * 4}
OWN_DEFAULTS = {
    "ContrastNoPENoCA": {"depths": (6,) * 7},
    "MambaLight": {"depths": (8,) * 6},
    "ContrastV2": {
        "dims": 150,
        "depths": (6,) * 6,
        "ssm_conv_bias": True,
        "upsampler": "pixelshuffle",
        "upscale_dims": 64,
    },
    "Contrast_baseline_first": AUTHORS,
    "Contrast_no_pe": AUTHORS,
    "Contrast_no_pe_no_ca": AUTHORS,
    "Contrast_no_pe_no_cab": AUTHORS,
    "MambaSR": AUTHORS,
}


def groups(network):
    return [len(group.residual_group.blocks) for group in network.layers]


def test_there_are_36_arguments_and_an_alias():
    assert len(ARGUMENTS) == 37 and DEFAULTS["embed_dim"] is None
    assert all(argument.metadata["help"] and argument.metadata["kind"].allowed for argument in ARGUMENTS.values())


@pytest.mark.parametrize("name", [*RECORDED, *AUTHORS_NAMES])
def test_signature(name):
    """Names and defaults, those of the network itself included, and by keyword only."""
    parameters = inspect.signature(getattr(archs, name)).parameters
    assert {key: parameter.default for key, parameter in parameters.items()} == DEFAULTS | OWN_DEFAULTS.get(name, {})
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert parameters["dims"].annotation == int | None


def test_the_signature_of_a_subclass_is_its_own():
    class Mine(archs.ContrastV2):
        def __init__(self, width, **arguments):
            super().__init__(dims=width, **arguments)

    assert list(inspect.signature(Mine).parameters) == ["width", "arguments"]
    net = Mine(12, depths=[1], num_heads=[2], window_size=4)
    assert net.conv_first.out_channels == 12 and net.conv_last.in_channels == 64


@pytest.mark.parametrize("name", ["Contrast", "ContrastV2", "MambaSR"])
def test_help_lists_every_argument(name):
    text = pydoc.render_doc(getattr(archs, name), renderer=pydoc.plaintext)
    for key, argument in ARGUMENTS.items():
        assert f" {key}: {argument.metadata['help']}; {argument.metadata['kind'].allowed}.\n" in text


def test_the_page_has_the_arguments():
    """And names those of which null is the default."""
    text = (ROOT / "docs" / "networks.md").read_text()
    assert (
        "| `window_size` | side of the attention windows; images are padded to whole windows | a whole number" in text
    )
    *others, last = OPTIONAL
    assert f"`null` (None) for {', '.join(f'`{name}`' for name in others)} and `{last}` stands" in text.replace(
        "\n", " "
    )
    assert "| `MambaLight` | `depths: [8, 8, 8, 8, 8, 8]` |" in text


def test_positional_arguments_are_refused():
    with pytest.raises(TypeError, match=r"SRNetwork.__init__\(\) takes 1 positional argument but 2 were given"):
        archs.Contrast(60)


@pytest.mark.parametrize("name", ["ContrastNoPENoCA", "ContrastV2", "MambaSR"])
def test_none_stands_for_the_default_of_the_network(name):
    with torch.device("meta"):
        net, default = getattr(archs, name)(**dict.fromkeys(OPTIONAL)), getattr(archs, name)()
    assert str(net) == str(default)
    assert groups(net) == list(OWN_DEFAULTS[name]["depths"])


def test_embed_dim_replaces_the_default_width():
    with torch.device("meta"):
        assert archs.ContrastV2(embed_dim=48, dims=None).conv_first.out_channels == 48
        assert archs.ContrastV2(embed_dim=48, dims=48).conv_first.out_channels == 48


def test_values_as_the_network_is_built_with():
    config = Config.of(archs.Contrast, {"depths": [2.0, 1], "ssm_dt_rank": 2.0, "in_chans": 1, "norm_layer": "LN"})
    assert (config.depths, config.num_heads, config.num_out_ch, config.ssm_dt_rank) == ((2, 1), (6, 6), 1, 2)
    assert config.norm_layer is torch.nn.LayerNorm and config.hidden == 120


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"depths": [2, 0]}, r"depths=\[2, 0\]: expected a list of whole numbers from 1, such as \[6, 6, 6, 6\]"),
        ({"depths": []}, r"depths=\[\]: expected a list"),
        ({"num_heads": "66"}, "num_heads='66': expected a list"),
        ({"ssm_dt_rank": "all"}, "ssm_dt_rank='all': expected 'auto' or a whole number of at least 1"),
        ({"upscale": None}, "upscale=None: expected a whole number of at least 1"),
        ({"upscale": True}, "upscale=True: expected a whole number"),
        ({"ssm_conv": 3.5}, "ssm_conv=3.5: expected an odd kernel size, or 1 for none"),
        ({"conv_scale": float("nan")}, "conv_scale=nan: expected a number above 0"),
        ({"patch_norm": 1}, "patch_norm=1 is not supported; supported: True, False"),
        ({"posembed": 0}, "posembed=0 is not supported; supported: False"),
        ({"norm_layer": "batch"}, "norm_layer='batch' is not supported; supported: 'layernorm', 'ln', 'rmsnorm', or a"),
        ({"mlp_act_layer": 3}, "mlp_act_layer=3 is not supported; supported: 'gelu'"),
        ({"ssm_ratio": 0.05}, "ssm_ratio=0.05 leaves nothing of dims=12"),
        ({"compress_ratio": 13}, "compress_ratio=13 leaves nothing of dims=12"),
    ],
    ids=str,
)
def test_refused_values(setting, message):
    with pytest.raises(ValueError, match=message):
        build("Contrast", **setting)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_copies_compute_the_same(copied):
    net, lq = build("ContrastV2"), torch.rand(1, 3, 5, 6)
    assert torch.equal(copied(net)(lq), net(lq)) and isinstance(copied(net), SRNetwork)
