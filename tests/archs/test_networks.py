"""One tester for all networks: recorded results, sizes, memory, half precision, compilers and exporters."""

import operator
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.layers import tokens
from contrast_arch.ops.attention import torch as attention_torch
from tests.conftest import NETWORKS, RECORDED, load_reference, relative_error
from tests.known_failures import works_unless_known

SMALL = {"dims": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 4, "upscale": 2}
# Of all networks alike: the other one has a kink, and takes more than the blocks of such sizes do.
SMALL |= {"upsampler": "pixelshuffledirect"}
ONE_GROUP = {"dims": 6, "depths": [2], "num_heads": [2]}
over_all = pytest.mark.parametrize("name", NETWORKS)


def build(name, **changes):
    torch.manual_seed(0)
    return getattr(archs, name)(**{**SMALL, **changes})


def parameter_count(net):
    return sum(p.numel() for p in net.parameters())


def output_and_gradients(net, lq, run=None):
    """Output, and the gradients of a loss by parameter."""
    sr = (net if run is None else run)(lq)
    return [sr, *torch.autograd.grad((sr.float() - 0.5).square().mean(), list(net.parameters()))]


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def small_blocks(monkeypatch):
    """Functions of tokens run in several blocks, and those of their neighbours in several bands."""
    monkeypatch.setattr(tokens, "CHUNK", 100)
    monkeypatch.setattr(tokens, "ROWS", 2)
    monkeypatch.delenv("CONTRAST_ARCH_BACKEND", raising=False)


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


@over_all
def test_any_size(name):
    """The result is that of the padded image, cropped; every parameter gets a gradient."""
    net = build(name, window_size=8)
    for size in ((1, 1), (2, 9), (17, 4)):
        padded = x = torch.rand(2, 3, *size)
        for axis, length in ((2, size[0]), (3, size[1])):
            missing = -length % 8
            width = [(0, 0)] * 4
            width[axis] = (0, missing)
            padded = torch.from_numpy(np.pad(padded.numpy(), width, mode="reflect" if missing < length else "edge"))
        out = net(x)
        assert out.shape == (2, 3, 2 * size[0], 2 * size[1])
        with torch.no_grad():
            torch.testing.assert_close(out, net(padded)[:, :, : out.shape[2], : out.shape[3]], rtol=1e-5, atol=1e-6)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@over_all
def test_use_checkpoint_keeps_less_and_computes_the_same(name):
    lq, kept, results = torch.linspace(0, 1, 3 * 64).view(1, 3, 8, 8), [0, 0], []
    for use_checkpoint in (False, True):

        def keep(t, use_checkpoint=use_checkpoint):
            kept[use_checkpoint] += t.numel()
            return t

        net = build(name, use_checkpoint=use_checkpoint)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            sr = net(lq)
        results.append([sr, *torch.autograd.grad(sr.square().mean(), list(net.parameters()))])
    assert kept[1] < 0.6 * kept[0]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "name, options",
    [*((name, {}) for name in NETWORKS), ("Contrast", {"forward_type": "v05"}), ("Contrast", {"ssm_conv": 1})],
    ids=str,
)
@torch.no_grad()
def test_blocks_of_tokens_and_several_callers(request, name, options):
    """Also at the same time, from the first call on."""
    lq = torch.rand(2, 3, 13, 10)
    expected = build(name, **ONE_GROUP, **options)(lq)
    request.getfixturevalue("small_blocks")
    net = build(name, **ONE_GROUP, **options)

    def upscale(_):
        with torch.no_grad():
            return net(lq)

    with ThreadPoolExecutor(4) as pool:
        for sr in pool.map(upscale, range(4)):
            torch.testing.assert_close(sr, expected)


HALF = [(name, *case) for name in NETWORKS for case in (("cpu", torch.float16, True), ("torch", torch.bfloat16, False))]
HALF += [("Contrast", "cpu", torch.float16, False), ("Contrast", "reference", torch.bfloat16, True)]


@pytest.mark.parametrize("name, backend, dtype, whole", HALF, ids=str)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_half_precision_is_float32_rounded(monkeypatch, name, backend, dtype, whole):
    """Weights and image in it, or under autocast. The loss is scaled, as GradScaler does it, for small gradients."""
    monkeypatch.setenv("CONTRAST_ARCH_BACKEND", backend)
    lq, gt = torch.rand(1, 3, 3, 7), torch.rand(1, 3, 6, 14)

    def run(half):
        net = build(name)
        if half and whole:
            net.to(dtype)
        with torch.autocast("cpu", dtype, enabled=half and not whole):
            sr = net(lq.to(dtype) if half and whole else lq)
            with torch.no_grad():
                assert relative_error(net(lq.to(sr.dtype)), sr) <= torch.finfo(dtype).eps
        loss = 2.0**17 * F.mse_loss(sr.float(), gt)
        return sr, dict(zip(dict(net.named_parameters()), torch.autograd.grad(loss, net.parameters()), strict=True))

    (sr, gradients), (half_sr, half_gradients) = run(False), run(True)
    eps = torch.finfo(dtype).eps
    assert half_sr.dtype == (dtype if whole else torch.float32)
    assert (half_sr - sr).norm() < eps * sr.norm()
    errors = {key: (half_gradients[key].double() - gradient).norm() for key, gradient in gradients.items()}
    norms = {key: gradient.norm() for key, gradient in gradients.items()}
    error, norm = (torch.stack(list(found.values())).norm() for found in (errors, norms))
    assert error < 2 * eps * norm
    for key in gradients:
        # Where large numbers nearly cancel fewer digits are left.
        assert errors[key] < 32 * eps * norms[key] + 1e-4 * eps * norm, key


def test_autocast_keeps_what_bfloat16_cannot_hold():
    """Steps of 1e-3 around a decay near one."""
    x, p = torch.ones(1, 1, 512, 1), torch.zeros(1, 1, 512, 4, 3)
    p[..., 0, 1:] = 1  # one direction: B = C = 1
    dt = torch.tensor(1e-3)
    parameters = [torch.zeros(4, 1, 1), dt.expm1().log().expand(4, 1), torch.zeros(4, 1), torch.zeros(4)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = torch.ops.contrast_arch.ss2d_torch(x, p, *parameters, False)[0].flatten()
    # h_t = e^-dt h_{t-1} + dt, from zero.
    steps = torch.arange(1, 513, dtype=torch.float64)
    expected = dt.double() * (1 - torch.exp(-dt.double() * steps)) / (1 - torch.exp(-dt.double()))
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=0)


@over_all
@pytest.mark.usefixtures("fresh_compiler")
def test_compiles_to_one_graph_forward_and_backward(name):
    net, lq = build(name, **ONE_GROUP), torch.rand(2, 3, 9, 7)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for a, b in zip(output_and_gradients(net, lq, compiled), output_and_gradients(net, lq), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on the CPU")
@pytest.mark.usefixtures("fresh_compiler")
def test_compiles_with_inductor():
    net, lq = build("Contrast", **ONE_GROUP | {"depths": [1]}), torch.rand(2, 3, 9, 7)
    for a, b in zip(output_and_gradients(net, lq, torch.compile(net)), output_and_gradients(net, lq), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_network_takes_other_sizes():
    """The second size makes the sizes symbols, which all later ones share."""
    net = build("Contrast", **ONE_GROUP).eval()
    assert_right_at_every_size(torch.compile(net, fullgraph=True, backend="aot_eager"), net, [(8, 8), (12, 20), (9, 7)])


# Whole windows or not, one window or several, smaller than their padding, more than a block or less.
SIZES = [(9, 7), (8, 8), (1, 1), (17, 23)]


def assert_right_at_every_size(recorded, net, sizes=SIZES):
    with torch.no_grad():
        for batch, size in enumerate(sizes, 1):
            lq = torch.rand(batch % 3 or 1, 3, *size)
            torch.testing.assert_close(
                recorded(lq), net(lq), rtol=0, atol=1e-5, msg=lambda m, size=size: f"{size}: {m}"
            )


@pytest.mark.usefixtures("small_blocks")
@over_all
def test_exports_for_every_size(name):
    has_windows = getattr(archs, name).mixer == "window"
    net = build(name, **ONE_GROUP | {"depths": [2] if has_windows else [1]}).eval()
    sizes = {axis: torch.export.Dim(text, min=1) for axis, text in {0: "batch", 2: "height", 3: "width"}.items()}
    exported = torch.export.export(net, (torch.rand(2, 3, 9, 7),), dynamic_shapes=(sizes,))
    # The window attention with a gradient for its bias is an operator that only contrast_arch has.
    ours = {str(node.target) for node in exported.graph.nodes if "contrast_arch" in str(node.target)}
    assert ours == (set() if has_windows else {"contrast_arch.ss2d_torch.default"})
    assert_right_at_every_size(exported.module(), net)


def test_exports_from_one_image_of_one_window():
    """The number of windows is not fixed; the default width and heads.

    Gradients were wanted while it was recorded: decomposed, attention takes another kernel than was announced.
    """
    net = archs.Contrast(depths=[1]).eval()
    auto = torch.export.Dim.AUTO
    exported = torch.export.export(net, (torch.rand(1, 3, 16, 16),), dynamic_shapes=({2: auto, 3: auto},))
    for program in (exported.module(), exported.run_decompositions({}).module()):
        with torch.no_grad():
            for size in [(16, 16), (33, 17)]:
                lq = torch.rand(1, 3, *size)
                torch.testing.assert_close(program(lq), net(lq), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.usefixtures("small_blocks")
@over_all
def test_a_traced_network_is_right_at_every_size(name):
    net = build(name, **ONE_GROUP).eval()
    with torch.no_grad():
        traced = torch.jit.trace(net, torch.rand(1, 3, 8, 8), check_trace=False)
    assert "ss2d_cpu" not in str(traced.inlined_graph)
    assert_right_at_every_size(traced, net)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("recorder", ["jit.script", "fx.symbolic_trace"])
@over_all
def test_what_cannot_follow_a_network_says_so(name, recorder):
    with works_unless_known("recorder", recorder):
        operator.attrgetter(recorder)(torch)(nn.Sequential(build(name, **ONE_GROUP)))


# network_g of HAT_SRx4.yml, two of its six groups.
HAT_BLOCK = {"upscale": 4, "in_chans": 3, "img_size": 64, "window_size": 16, "compress_ratio": 3, "squeeze_factor": 30}
HAT_BLOCK |= {"conv_scale": 0.01, "overlap_ratio": 0.5, "img_range": 1.0, "depths": [6, 6], "embed_dim": 180}
HAT_BLOCK |= {"num_heads": [6, 6], "mlp_ratio": 2, "upsampler": "pixelshuffle", "resi_connection": "1conv"}


@over_all
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
    text = "compress_ratio=24, squeeze_factor=24: not supported by {0}, which has no channel attention; leave that out"
    if not cls.overlap_attention:
        text += "; overlap_ratio=0.25: not supported by {0}, which has no overlapping attention; leave that out"
    assert str(failure.value) == text.format(name)


@pytest.mark.parametrize("size", [(16, 24), (13, 21)], ids=str)
def test_hat_light_is_hat(size):
    """spandrel's copy of HAT with the same weights, shifted windows and padding included."""
    HAT = pytest.importorskip("spandrel.architectures.HAT").HAT
    shared = {"img_size": 64, "window_size": 8, "depths": [2, 3], "num_heads": [2, 4], "mlp_ratio": 2.0}
    shared |= {"upscale": 3, "upsampler": "pixelshuffle", "embed_dim": 32}
    hat = HAT(**shared).eval()
    net = archs.HATLight(**shared, upscale_dims=64)  # fixed in HAT
    net.load_state_dict(hat.state_dict(), strict=True)
    x = torch.rand(2, 3, *size)
    out, expected = net(x), hat(x)
    assert relative_error(out, expected) < 1e-5
    (grad,) = torch.autograd.grad(out.square().mean(), net.conv_first.weight)
    (expected,) = torch.autograd.grad(expected.square().mean(), hat.conv_first.weight)
    assert relative_error(grad, expected) < 1e-4
