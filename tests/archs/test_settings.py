"""Arguments of the networks: what each does, what is refused, and where they are written down."""

import copy
import inspect
import pickle
import pydoc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.archs.config import DEFAULTS, Config
from contrast_arch.archs.network import SRNetwork
from contrast_arch.networks import AUTHORS_NAMES
from tests.archs.test_networks import build, parameter_count
from tests.conftest import RECORDED, ROOT, load_reference, relative_error

LIGHT = {"dims": 48, "depths": [6] * 3}
DIRECT = {"upsampler": "pixelshuffledirect"}
# Beside those of the option files (tests/test_options.py).
COUNTS = [
    ("Contrast", {}, 1_491_300),
    ("ContrastNoPE", {}, 1_454_796),
    ("ContrastNoPENoCA", {}, 1_577_388),
    ("MambaLight", {}, 1_493_508),
    ("HATLight", {}, 1_717_524),
    ("ContrastV2", {}, 7_550_007),
    ("Contrast_baseline_first", LIGHT, 745_572),
    ("Contrast_no_pe", LIGHT, 718_194),
    ("Contrast_no_pe_no_ca", {"dims": 54}, 764_202),
    ("Contrast_no_pe_no_cab", {"dims": 54}, 764_202),
    ("ContrastV2", {"dims": 54, "depths": [6] * 4} | DIRECT, 702_850),
    ("ContrastV2", {"dims": 60, "depths": [6] * 4} | DIRECT, 850_752),
    ("ContrastV2", {"dims": 66, "depths": [6] * 3} | DIRECT, 786_168),
]


@pytest.mark.parametrize("name, settings, count", COUNTS, ids=str)
def test_parameter_counts(name, settings, count):
    with torch.device("meta"):
        assert parameter_count(getattr(archs, name)(**settings)) == count


# The published call of Contrast, and ContrastV2 S.
PUBLISHED = [
    (
        archs.Contrast,
        {"img_range": 1.0, "resi_connection": "1conv", "window_size": 16, "overlap_ratio": 0.5, "depths": [6] * 4}
        | {"num_heads": [6, 6, 6, 6], "patch_size": 1, "in_chans": 3, "num_out_ch": 3, "dims": 60, "upscale_dims": 48}
        | {"ssm_d_state": 1, "ssm_ratio": 1.0, "ssm_dt_rank": "auto", "ssm_act_layer": "gelu", "ssm_conv": 3}
        | {"ssm_conv_bias": False, "ssm_init": "v2", "forward_type": "v05_noz", "mlp_ratio": 2.0, "gmlp": False}
        | {"mlp_act_layer": "gelu", "patch_norm": True, "norm_layer": nn.LayerNorm, "downsample_version": "v3"}
        | {"patchembed_version": "v2", "use_checkpoint": False, "posembed": False, "img_size": 64}
        | {"upsampler": "pixelshuffledirect", "upscale": 4, "channel_first": False},
    ),
    (
        archs.ContrastV2,
        {"dims": 150, "depths": [6] * 6, "num_heads": [6] * 6, "window_size": 16, "upsampler": "pixelshuffle"}
        | {"upscale_dims": 64, "upscale": 4, "ssm_conv_bias": True, "aligned_bias": True},
    ),
]


@pytest.mark.parametrize("network, arguments", PUBLISHED, ids=str)
def test_published_call_builds_the_default_network(network, arguments):
    with torch.device("meta"):
        published, default = network(**arguments), network()
    assert str(published) == str(default)
    assert [(k, v.shape) for k, v in published.state_dict().items()] == [
        (k, v.shape) for k, v in default.state_dict().items()
    ]


def test_published_index_buffers_are_optional():
    _, state, _, _ = load_reference("HATLight")
    config = load_reference("HATLight")[0]
    net = archs.HATLight(**config)
    without = {key: value for key, value in state.items() if not key.startswith("relative_position_index")}
    assert len(state) - len(without) == 2
    net.load_state_dict(without, strict=True)
    net.load_state_dict(state, strict=True)
    with pytest.raises(RuntimeError, match="unexpected"):
        net.load_state_dict({**state, "unexpected": torch.zeros(1)}, strict=True)


def test_whole_windows_are_not_copied():
    net = build("Contrast")
    whole = torch.rand(1, 3, 8, 12)
    assert net._pad(whole) is whole
    lq = torch.rand(1, 3, 7, 12)
    assert torch.equal(net._pad(lq), F.pad(lq, (0, 0, 0, 1), "reflect"))


@pytest.mark.parametrize(
    "upscale, channels, upsampler",
    [
        (1, 3, "pixelshuffle"),
        (2, 1, "pixelshuffledirect"),
        (3, 3, "pixelshuffledirect"),
        (3, 1, "pixelshuffle"),
        (8, 3, "pixelshuffle"),
    ],
)
def test_upscale_channels_and_upsampler(upscale, channels, upsampler):
    net = build("ContrastNoPE", upsampler=upsampler, upscale=upscale, in_chans=channels, upscale_dims=8)
    out = net(torch.rand(1, channels, 5, 6))
    assert out.shape == (1, channels, 5 * upscale, 6 * upscale)
    assert out.std() > 0
    assert hasattr(net, "conv_last") == (upsampler == "pixelshuffle")


def test_mean_is_taken_off_and_put_back():
    net = build("Contrast")
    for p in net.parameters():
        nn.init.zeros_(p)
    expected = torch.tensor([0.4488, 0.4371, 0.4040])
    torch.testing.assert_close(net(torch.rand(1, 3, 4, 4)).mean((0, 2, 3)), expected)
    assert build("Contrast", in_chans=1, num_out_ch=3)(torch.rand(1, 1, 4, 4)).shape == (1, 3, 8, 8)


def test_img_range_scales_inside():
    """At range 255 the first convolution sees numbers 255 times as large, the output is divided by it."""
    net, wide = build("Contrast"), build("Contrast", img_range=255.0)
    seen = {}
    for n in (net, wide):
        n.conv_first.register_forward_pre_hook(lambda m, args, n=n: seen.__setitem__(n, args[0]))
    x = torch.rand(1, 3, 8, 8)
    assert not torch.allclose(net(x), wide(x))
    torch.testing.assert_close(seen[wide], 255 * seen[net])
    last = wide.upsample[0]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, 51.0)
    torch.testing.assert_close(wide(x), (wide.mean + 0.2).expand(1, 3, 16, 16))


@pytest.mark.parametrize(
    "name, setting",
    [
        ("Contrast", {"ssm_d_state": 2}),
        ("Contrast", {"ssm_ratio": 2.0}),
        ("Contrast", {"ssm_dt_rank": 2}),
        ("Contrast", {"ssm_act_layer": "silu"}),
        ("Contrast", {"ssm_conv": 5}),
        ("Contrast", {"ssm_conv_bias": True}),
        ("Contrast", {"ssm_init": "v0"}),
        ("Contrast", {"forward_type": "v05"}),
        ("Contrast", {"mlp_ratio": 1.5}),
        ("Contrast", {"mlp_act_layer": "relu"}),
        ("Contrast", {"gmlp": True}),
        ("Contrast", {"patch_norm": False}),
        ("Contrast", {"norm_layer": "rmsnorm"}),
        ("Contrast", {"resi_connection": "identity"}),
        ("Contrast", {"overlap_ratio": 1.0}),
        ("Contrast", {"window_size": 8}),
        ("Contrast", {"compress_ratio": 2}),
        ("Contrast", {"squeeze_factor": 4}),
        ("Contrast", {"conv_scale": 0.5}),
        ("HATLight", {"mlp_act_layer": "relu"}),
        ("HATLight", {"gmlp": True}),
        ("HATLight", {"img_size": 4}),
        ("MambaLight", {"ssm_d_state": 3}),
        ("ContrastV2", {"aligned_bias": False}),
        ("ContrastV2", {"overlap_ratio": 1.0}),
        ("ContrastV2", {"mlp_act_layer": "relu"}),
        ("ContrastV2", {"mlp_ratio": 1.5}),
    ],
    ids=str,
)
def test_every_setting_has_an_effect(name, setting):
    """With the same weights where they fit, the output is another (or the weights are)."""
    base, changed = build(name).double(), build(name, **setting).double()
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (base, changed)]
    shared = {k: v for k, v in base.state_dict().items() if shapes[1].get(k) == shapes[0][k]}
    if "ssm_init" not in setting:
        changed.load_state_dict(shared, strict=False)
    x = torch.rand(1, 3, 8, 12, dtype=torch.float64)
    assert relative_error(changed(x), base(x)) > 1e-9  # rounding is at 1e-16
    loss = changed(x).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in changed.parameters())


def test_shapes_that_settings_make():
    state = build("Contrast", ssm_d_state=3, ssm_ratio=2.0, forward_type="v05", gmlp=True).state_dict()
    block = "layers.0.residual_group.blocks.0."
    assert state[block + "mamba.A_logs"].shape == (4 * 24, 3)
    assert state[block + "mamba.in_proj.weight"].shape == (48, 12)
    assert state[block + "mamba.x_proj_weight"].shape == (4, 1 + 2 * 3, 24)
    assert state[block + "mlp.fc1.weight"].shape == (48, 12)
    assert state[block + "mlp.fc2.weight"].shape == (12, 24)
    assert state["layers.0.residual_group.overlap_attn.mlp.fc1.weight"].shape == (24, 12)
    assert not [key for key in build("Contrast", resi_connection="identity").state_dict() if ".conv." in key]


@pytest.mark.parametrize(
    "name, setting, message",
    [
        ("Contrast", {"forward_type": "xv1a"}, "forward_type='xv1a': expected 'v05_noz' or 'v05'"),
        ("Contrast", {"num_heads": [5, 5]}, "5 does not divide dims=12"),
        ("Contrast", {"num_heads": [2]}, r"num_heads=\[2\] and depths=\[2, 1\]: expected one number a group"),
        ("Contrast", {"ssm_d_state": 1.5}, "ssm_d_state=1.5: expected a valid integer, got .* fractional part"),
        ("Contrast", {"ssm_act_layer": "gleu"}, "ssm_act_layer='gleu': expected gelu, silu, relu, sigmoid, or a class"),
        ("Contrast", {"mlp_act_layer": 3}, "mlp_act_layer=3: expected gelu"),
        ("Contrast", {"ssm_init": "v9"}, "'v0', 'v1' or 'v2'"),
        ("Contrast", {"ssm_conv": 4}, "ssm_conv=4: expected 1, 3, 5 or 7"),
        ("Contrast", {"upscale": 6, "upsampler": "pixelshuffle"}, "upscale=6 .*: expected 3 or a power of two"),
        (
            "Contrast",
            {"upscale": 0, "dims": None},
            "dims=None: expected a valid integer; upscale=0: expected greater than or equal to 1",
        ),
        ("Contrast", {"patch_size": 2}, "patch_size=2: expected 1"),
        ("Contrast", {"posembed": True}, "posembed=True: expected False"),
        ("Contrast", {"downsample_version": "v1"}, "downsample_version='v1': expected 'v3'"),
        ("Contrast", {"depths": 6}, "depths=6: expected a valid tuple"),
        ("Contrast", {"depths": [2, 0]}, r"depths=\[2, 0\]: expected greater than or equal to 1"),
        ("Contrast", {"depths": []}, r"depths=\[\]: .* at least 1 item"),
        ("Contrast", {"num_heads": "66"}, "num_heads='66': expected a valid tuple"),
        ("Contrast", {"embed_dim": 24}, "dims=12 and embed_dim=24: two names for one width"),
        ("Contrast", {"overlap_ratio": 0.25}, "overlap_ratio=0.25: expected an even share of window_size=4"),
        ("Contrast", {"overlap_ratio": "half"}, "overlap_ratio='half': expected a valid number"),
        ("Contrast", {"overlap_ratio": 1.5}, "overlap_ratio=1.5: expected less than or equal to 1"),
        ("Contrast", {"dims": float("inf")}, "dims=inf: expected a finite number"),
        ("Contrast", {"conv_scale": float("nan")}, "conv_scale=nan: expected a finite number"),
        ("Contrast", {"gmlp": "yes"}, "gmlp='yes': expected a valid boolean"),
        ("Contrast", {"img_range": 0}, "img_range=0: expected greater than 0"),
        ("Contrast", {"ssm_dt_rank": "all"}, "ssm_dt_rank='all': expected 'auto'; ssm_dt_rank='all': expected a valid"),
        ("Contrast", {"norm_layer": "batch"}, "norm_layer='batch': expected layernorm, ln, rmsnorm, or a class of nn"),
        ("Contrast", {"aligned_bias": False}, "aligned_bias=False: not supported by Contrast, which has no computed"),
        ("HATLight", {"ssm_ratio": 2.0}, "by HATLight, which has no SS2D"),
        ("ContrastNoPENoCA", {"conv_scale": 1.0}, "which has no channel attention; leave that out"),
        ("MambaLight", {"overlap_ratio": 1.0}, "which has no overlapping attention"),
        ("ContrastV2", {"gmlp": True}, "gmlp=True: not supported by ContrastV2, which has no plain MLP"),
        ("ContrastV2", {"mlp_ratio": 1.75}, r"mlp_ratio=1\.75: expected MLPs of an even width, not 21, at dims=12"),
    ],
    ids=str,
)
def test_refused_values(name, setting, message):
    with pytest.raises(ValueError, match=message):
        build(name, **setting)


def test_widths_are_at_least_one():
    state = build("Contrast", ssm_ratio=0.05, compress_ratio=13, mlp_ratio=0.05).state_dict()
    block = "layers.0.residual_group.blocks.0."
    for name, shape in {
        "mamba.in_proj.weight": (1, 12),
        "conv_block.cab.0.weight": (1, 12, 3, 3),
        "mlp.fc1.weight": (1, 12),
    }.items():
        assert state[block + name].shape == shape


def test_unknown_arguments_are_refused_with_the_nearest():
    with pytest.raises(TypeError, match=r"Contrast has no argument 'ssm_ratoi'; did you mean ssm_ratio"):
        build("Contrast", ssm_ratoi=2.0)


def test_published_floats_are_taken_as_whole_numbers():
    assert build("Contrast", ssm_d_state=1.0).state_dict().keys() == build("Contrast").state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool], ids=str)
def test_images_of_integers_are_refused(dtype):
    """Not computed in float32, with the mean of [0, 1] subtracted from values up to 255."""
    expected = rf"input of dtype {dtype}: expected floats in \[0, 1\], such as x.float\(\) / 255 of uint8"
    with pytest.raises(TypeError, match=expected):
        build("Contrast")(torch.zeros(1, 3, 8, 8, dtype=dtype))


def test_other_images():
    """The range is not looked at: minimum and maximum would wait for the GPU; the tools look (tests/inference)."""
    net = build("Contrast")
    assert net(255 * torch.rand(1, 3, 8, 8)).isfinite().all()
    with pytest.raises(ValueError, match=r"\(1, 4, 8, 8\): expected \(B, 3, H, W\)"):
        net(torch.rand(1, 4, 8, 8))


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


def test_there_are_36_arguments_and_an_alias():
    assert len(DEFAULTS) == 37 and DEFAULTS["embed_dim"] is None
    assert all(argument.description for argument in Config.model_fields.values())


@pytest.mark.parametrize("name", [*RECORDED, *AUTHORS_NAMES])
def test_signature(name):
    """Names and defaults, those of the network itself included, and by keyword only."""
    parameters = inspect.signature(getattr(archs, name)).parameters
    assert {key: parameter.default for key, parameter in parameters.items()} == DEFAULTS | OWN_DEFAULTS.get(name, {})
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert parameters["num_out_ch"].annotation.__args__[0].__origin__ is int


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
    for key, argument in Config.model_fields.items():
        assert f" {key}: {argument.description}.\n" in text


def test_the_page_has_the_arguments():
    text = (ROOT / "docs" / "networks.md").read_text()
    assert (
        "| `window_size` | side of the attention windows; images are padded to whole windows | a whole number" in text
    )
    assert "| `MambaLight` | `depths: [8, 8, 8, 8, 8, 8]` |" in text


def test_positional_arguments_are_refused():
    with pytest.raises(TypeError, match=r"__init__\(\) takes 1 positional argument but 2 were given"):
        archs.Contrast(60)


@pytest.mark.parametrize("name", ["ContrastNoPENoCA", "ContrastV2", "MambaSR"])
def test_none_stands_for_the_default_of_the_network(name):
    with torch.device("meta"):
        net, default = getattr(archs, name)(num_heads=None, num_out_ch=None, embed_dim=None), getattr(archs, name)()
    assert str(net) == str(default)
    assert [len(layer.residual_group.blocks) for layer in net.layers] == list(OWN_DEFAULTS[name]["depths"])


def test_embed_dim_replaces_the_default_width():
    with torch.device("meta"):
        assert archs.ContrastV2(embed_dim=48).conv_first.out_channels == 48
        assert archs.ContrastV2(embed_dim=48, dims=48).conv_first.out_channels == 48


def test_values_as_the_network_is_built_with():
    given = {"depths": [2.0, 1], "ssm_dt_rank": 2.0, "in_chans": 1, "norm_layer": "LN"}
    config = Config.of(archs.Contrast, {}, given)
    assert (config.depths, config.num_heads, config.num_out_ch, config.ssm_dt_rank) == ((2, 1), (6, 6), 1, 2)
    assert config.norm_layer is torch.nn.LayerNorm and config.hidden == 120


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_copies_compute_the_same(copied):
    net, lq = build("ContrastV2"), torch.rand(1, 3, 5, 6)
    assert torch.equal(copied(net)(lq), net(lq)) and isinstance(copied(net), SRNetwork)
