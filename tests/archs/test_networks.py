import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.ops.attention import torch as attention_torch
from tests.conftest import NETWORKS, RECORDED, load_reference, relative_error

SMALL = {"dims": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 4, "upscale": 2}
# Of all networks alike: the other one has a kink, and takes more than the blocks of such sizes do.
SMALL |= {"upsampler": "pixelshuffledirect"}


def build(name, **changes):
    torch.manual_seed(0)
    return getattr(archs, name)(**{**SMALL, **changes})


def parameter_count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", [*RECORDED, "ContrastV2_w16"])
@pytest.mark.parametrize("attention", ["fastest", "fused", "reference"])
def test_reproduces_the_recorded_network(monkeypatch, name, attention):
    """By every way to attention; ``fused`` is what a GPU does in training, with heads padded as there."""
    if attention == "reference":
        monkeypatch.setenv("CONTRAST_ARCH_BACKEND", "window_attention=reference,overlap_attention=reference")
    if attention == "fused":
        monkeypatch.setenv("CONTRAST_ARCH_BACKEND", "window_attention=torch,overlap_attention=torch")
        monkeypatch.setattr(attention_torch, "wants_windows", lambda *tensors: False)
        monkeypatch.setitem(attention_torch.HEAD_DIM_MULTIPLE, "cpu", 8)
    config, state, tensors, metadata = load_reference(name)
    net = getattr(archs, metadata["arch"])(**config)
    assert isinstance(net, getattr(archs, name.partition("_")[0]))
    net.load_state_dict(state, strict=True)
    assert parameter_count(net) == int(metadata["num_params"])

    out = net(tensors["input"])
    assert relative_error(out, tensors["output"]) < 1e-5
    loss = (out - 0.5).square().mean()
    assert loss.item() == pytest.approx(float(metadata["loss"]), rel=1e-5)
    loss.backward()
    names = [key.removeprefix("grad_norm.") for key in tensors if key.startswith("grad_norm.")]
    assert sorted(names) == sorted(key for key, _ in net.named_parameters())
    for key, parameter in net.named_parameters():
        expected = tensors[f"grad_norm.{key}"].item()
        # A bias for all keys alike has no gradient; what was recorded is rounding.
        assert parameter.grad.norm().item() == pytest.approx(expected, rel=1e-3, abs=1e-10), key
    with torch.no_grad():
        assert relative_error(net(tensors["input"]), tensors["output"]) < 1e-5


@pytest.mark.parametrize(
    "name, settings, count",
    [
        ("Contrast", {}, 1_491_300),
        ("ContrastNoPE", {}, 1_454_796),
        ("ContrastNoPE", {"ssm_ratio": 2.0}, 1_718_316),
        ("ContrastNoPENoCA", {}, 1_577_388),
        ("MambaLight", {}, 1_493_508),
        ("HATLight", {}, 1_717_524),
        ("Contrast", {"dims": 48, "depths": [6] * 3, "ssm_conv_bias": True}, 745_572),
        ("ContrastNoPE", {"dims": 48, "depths": [6] * 3, "ssm_conv_bias": True}, 718_194),
        ("ContrastNoPENoCA", {"dims": 54, "depths": [6] * 4, "ssm_conv_bias": True}, 764_202),
        ("HATLight", {"embed_dim": 48, "depths": [5] * 3, "num_heads": [6] * 3}, 771_099),
        ("Contrast_baseline_first", {"dims": 48, "depths": [6] * 3}, 745_572),
        ("Contrast_no_pe", {"dims": 48, "depths": [6] * 3}, 718_194),
        ("Contrast_no_pe_no_ca", {"dims": 54}, 764_202),
        ("Contrast_no_pe_no_cab", {"dims": 54}, 764_202),
    ],
)
def test_parameter_counts(name, settings, count):
    with torch.device("meta"):
        assert parameter_count(getattr(archs, name)(**settings)) == count


def test_published_call_builds_the_default_network():
    with torch.device("meta"):
        published = archs.Contrast(
            img_range=1.0,
            resi_connection="1conv",
            window_size=16,
            overlap_ratio=0.5,
            depths=[6, 6, 6, 6],
            num_heads=[6, 6, 6, 6],
            patch_size=1,
            in_chans=3,
            num_out_ch=3,
            dims=60,
            upscale_dims=48,
            ssm_d_state=1,
            ssm_ratio=1.0,
            ssm_dt_rank="auto",
            ssm_act_layer="gelu",
            ssm_conv=3,
            ssm_conv_bias=False,
            ssm_init="v2",
            forward_type="v05_noz",
            mlp_ratio=2.0,
            mlp_act_layer="gelu",
            gmlp=False,
            patch_norm=True,
            norm_layer=nn.LayerNorm,
            downsample_version="v3",
            patchembed_version="v2",
            use_checkpoint=False,
            posembed=False,
            img_size=64,
            upsampler="pixelshuffledirect",
            upscale=4,
            channel_first=False,
        )
        default = archs.Contrast()
    assert str(published) == str(default)
    assert {k: v.shape for k, v in published.state_dict().items()} == {
        k: v.shape for k, v in default.state_dict().items()
    }


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


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 5), (17, 4), (8, 12)], ids=str)
def test_any_size(name, size):
    """The result is that of the padded image, cropped; every parameter gets a gradient."""
    net = build(name, window_size=8)
    x = torch.rand(2, 3, *size)
    out = net(x)
    assert out.shape == (2, 3, 2 * size[0], 2 * size[1])
    padded = x
    for axis, length in ((2, size[0]), (3, size[1])):
        missing = -length % 8
        mode = "reflect" if missing < length else "edge"
        width = [(0, 0)] * 4
        width[axis] = (0, missing)
        padded = torch.from_numpy(np.pad(padded.numpy(), width, mode=mode))
    expected = net(padded)[:, :, : 2 * size[0], : 2 * size[1]]
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_whole_windows_are_not_copied():
    net = build("Contrast")
    whole = torch.rand(1, 3, 8, 12)
    assert net._pad(whole) is whole
    lq = torch.rand(1, 3, 7, 12)
    assert torch.equal(net._pad(lq), F.pad(lq, (0, 0, 0, 1), "reflect"))


@pytest.mark.parametrize("upsampler", ["pixelshuffledirect", "pixelshuffle"])
@pytest.mark.parametrize("upscale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_upscale_channels_and_upsampler(upsampler, upscale, channels):
    net = build("ContrastNoPE", upsampler=upsampler, upscale=upscale, in_chans=channels, upscale_dims=8)
    x = torch.rand(1, channels, 5, 6)
    out = net(x)
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


@pytest.mark.parametrize("name", NETWORKS)
def test_use_checkpoint_keeps_less_and_computes_the_same(name):
    def run(use_checkpoint):
        net = build(name, use_checkpoint=use_checkpoint)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            loss = net(torch.linspace(0, 1, 3 * 64).view(1, 3, 8, 8)).square().mean()
        loss.backward()
        return sum(kept), loss, [p.grad for p in net.parameters()]

    kept, loss, grads = run(False)
    kept_less, loss_again, grads_again = run(True)
    assert kept_less < 0.6 * kept
    torch.testing.assert_close(loss_again, loss)
    for a, b in zip(grads_again, grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("size", [(16, 24), (13, 21)], ids=str)
def test_hat_light_is_hat(size):
    """spandrel's copy of HAT with the same weights, shifted windows and padding included."""
    HAT = pytest.importorskip("spandrel.architectures.HAT").HAT
    shared = {
        "img_size": 64,
        "window_size": 8,
        "depths": [2, 3],
        "num_heads": [2, 4],
        "mlp_ratio": 2.0,
        "upscale": 3,
        "upsampler": "pixelshuffle",
        "embed_dim": 32,
    }
    hat = HAT(**shared).eval()
    net = archs.HATLight(**shared, upscale_dims=64)  # fixed in HAT
    net.load_state_dict(hat.state_dict(), strict=True)
    x = torch.rand(2, 3, *size)
    out, expected = net(x), hat(x)
    assert relative_error(out, expected) < 1e-5
    (grad,) = torch.autograd.grad(out.square().mean(), net.conv_first.weight)
    (expected,) = torch.autograd.grad(expected.square().mean(), hat.conv_first.weight)
    assert relative_error(grad, expected) < 1e-4


@pytest.mark.parametrize(
    "name, setting, message",
    [
        ("Contrast", {"forward_type": "xv1a"}, "forward_type='xv1a' is not supported; supported: 'v05_noz', 'v05'"),
        ("Contrast", {"num_heads": [5, 5]}, "5 does not divide dims=12"),
        ("Contrast", {"num_heads": [2]}, "expected one number a group"),
        ("Contrast", {"ssm_d_state": 1.5}, "ssm_d_state=1.5: expected a whole number"),
        ("Contrast", {"ssm_act_layer": "gleu"}, "ssm_act_layer='gleu'.*'gelu', 'silu', 'relu', 'sigmoid'"),
        ("Contrast", {"ssm_init": "v9"}, "'v0', 'v1', 'v2'"),
        ("Contrast", {"ssm_conv": 4}, "odd"),
        ("Contrast", {"upsampler": "nearest+conv"}, "'pixelshuffledirect', 'pixelshuffle'"),
        ("Contrast", {"upscale": 6, "upsampler": "pixelshuffle"}, "upscale 6"),
        ("Contrast", {"upscale": 0}, "upscale=0: expected a whole number of at least 1"),
        ("Contrast", {"resi_connection": "3conv"}, "'1conv', 'identity'"),
        ("Contrast", {"patch_size": 2}, "patch_size=2 is not supported"),
        ("Contrast", {"posembed": True}, "posembed=True is not supported"),
        ("Contrast", {"channel_first": True}, "channel_first=True is not supported"),
        ("Contrast", {"downsample_version": "v1"}, "supported: 'v3'"),
        ("Contrast", {"depths": 6}, "depths=6: expected a list"),
        ("Contrast", {"embed_dim": 24}, "two names for one width"),
        ("Contrast", {"overlap_ratio": 0.25}, "overlap_ratio=0.25 makes key windows 1 pixels wider"),
        ("Contrast", {"overlap_ratio": "half"}, "overlap_ratio='half': expected a number from 0 to 1"),
        ("Contrast", {"dims": float("inf")}, "dims=inf: expected a whole number"),
        ("Contrast", {"gmlp": "yes"}, "gmlp='yes'"),
        ("Contrast", {"img_range": 0}, "img_range=0"),
        ("HATLight", {"ssm_ratio": 2.0}, "by HATLight, which has no SS2D"),
        ("HATLight", {"img_size": 2}, "img_size=2 is smaller than window_size=4"),
        ("ContrastNoPENoCA", {"conv_scale": 1.0}, "which has no channel attention"),
        ("MambaLight", {"overlap_ratio": 1.0}, "which has no overlapping attention"),
    ],
    ids=str,
)
def test_refused_values(name, setting, message):
    with pytest.raises(ValueError, match=message):
        build(name, **setting)


# network_g of HAT_SRx4.yml, two of its six groups.
HAT_BLOCK = {
    "upscale": 4,
    "in_chans": 3,
    "img_size": 64,
    "window_size": 16,
    "compress_ratio": 3,
    "squeeze_factor": 30,
    "conv_scale": 0.01,
    "overlap_ratio": 0.5,
    "img_range": 1.0,
    "depths": [6, 6],
    "embed_dim": 180,
    "num_heads": [6, 6],
    "mlp_ratio": 2,
    "upsampler": "pixelshuffle",
    "resi_connection": "1conv",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_block_of_hat_needs_another_type_only(name):
    """And HAT-S's block says which keys a network without channel attention leaves out."""
    cls = getattr(archs, name)
    with torch.device("meta"):
        assert cls(**HAT_BLOCK).conv_first.weight.shape == (180, 3, 3, 3)
        if cls.channel_attention:
            assert cls(**{**HAT_BLOCK, "compress_ratio": 24, "squeeze_factor": 24}).upscale == 4
            return
        with pytest.raises(ValueError) as failure:
            cls(**{**HAT_BLOCK, "compress_ratio": 24, "squeeze_factor": 24, "overlap_ratio": 0.25})
    text = "compress_ratio=24, squeeze_factor=24: not supported by {0}, which has no channel attention"
    if not cls.overlap_attention:
        text += "; overlap_ratio=0.25: not supported by {0}, which has no overlapping attention"
    assert str(failure.value) == f"{text.format(name)}; leave out what this network does not have"


def test_unknown_arguments_are_refused_with_the_nearest():
    with pytest.raises(TypeError, match=r"Contrast has no argument 'ssm_ratoi' \(did you mean 'ssm_ratio'\?\)"):
        build("Contrast", ssm_ratoi=2.0)


def test_published_floats_are_taken_as_whole_numbers():
    assert build("Contrast", ssm_d_state=1.0).state_dict().keys() == build("Contrast").state_dict().keys()


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"\(1, 4, 8, 8\): expected \(B, 3, H, W\)"):
        build("Contrast")(torch.rand(1, 4, 8, 8))
