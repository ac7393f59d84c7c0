"""The networks under torch.compile, torch.export, torch.jit, torch.fx and autocast."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.layers import tokens
from tests.conftest import NETWORKS, relative_error

SMALL = {"dims": 12, "depths": [2], "num_heads": [2], "window_size": 4, "upscale": 2}


def loss_and_gradients(run, net, lq, gt):
    """Output, and the gradients of the mean squared error by parameter."""
    sr = run(lq)
    return [sr, *torch.autograd.grad(F.mse_loss(sr.float(), gt), list(net.parameters()))]


def build(name, **changes):
    net = getattr(archs, name)(**{**SMALL, **changes})
    return net, torch.rand(2, 3, 9, 7), torch.rand(2, 3, 18, 14)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("name", NETWORKS)
def test_compiles_to_one_graph_forward_and_backward(name):
    net, lq, gt = build(name)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for a, b in zip(loss_and_gradients(compiled, net, lq, gt), loss_and_gradients(net, net, lq, gt), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(compiled(lq), net(lq))


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on the CPU")
def test_compiles_with_inductor():
    net, lq, gt = build("Contrast", depths=[1])
    compiled = torch.compile(net, fullgraph=True)
    for a, b in zip(loss_and_gradients(compiled, net, lq, gt), loss_and_gradients(net, net, lq, gt), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_compiled_network_takes_other_sizes():
    """The second size makes the sizes symbols, which all later ones share."""
    net = archs.Contrast(**SMALL).eval()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for size in [(8, 8), (12, 20), (9, 7), (24, 16)]:
            lq = torch.rand(1, 3, *size)
            torch.testing.assert_close(compiled(lq), net(lq))


def assert_right_at_every_size(recorded, net):
    """Whole windows or not, one window or several, smaller than their padding, more than BLOCK or less, any batch."""
    with torch.no_grad():
        for size in [(2, 9, 7), (1, 8, 8), (1, 1, 1), (3, 4, 4), (2, 1, 9), (1, 5, 2), (1, 17, 23)]:
            lq = torch.rand(size[0], 3, *size[1:])
            torch.testing.assert_close(
                recorded(lq), net(lq), rtol=0, atol=1e-5, msg=lambda m, size=size: f"{size}: {m}"
            )


@pytest.fixture
def small_blocks(monkeypatch):
    """The largest of the sizes is one for which functions of tokens run in blocks."""
    monkeypatch.setattr(tokens, "CHUNK", 4000)
    monkeypatch.delenv("CONTRAST_ARCH_BACKEND", raising=False)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", NETWORKS)
def test_exports_for_every_size(name):
    has_windows = getattr(archs, name).mixer == "window"
    net, lq, _ = build(name, depths=[2] if has_windows else [1])
    sizes = {
        axis: torch.export.Dim(axis_name, min=1) for axis, axis_name in {0: "batch", 2: "height", 3: "width"}.items()
    }
    exported = torch.export.export(net.eval(), (lq,), dynamic_shapes=(sizes,))
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
    programs = exported.module(), exported.run_decompositions({}).module()
    with torch.no_grad():
        for size in [(16, 16), (3, 40), (33, 17)]:
            lq = torch.rand(1, 3, *size)
            for program in programs:
                torch.testing.assert_close(program(lq), net(lq), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_traced_network_is_right_at_every_size(name):
    net = build(name)[0].eval()
    with torch.no_grad():
        traced = torch.jit.trace(net, torch.rand(1, 3, 8, 8))
    assert "ss2d_cpu" not in str(traced.inlined_graph)
    assert_right_at_every_size(traced, net)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("record", [torch.jit.script, torch.fx.symbolic_trace])
def test_what_cannot_follow_the_network_says_so_in_one_line(record):
    net = nn.Sequential(archs.MambaLight(**SMALL))
    with pytest.raises(
        NotImplementedError, match=r"cannot .* MambaLight: use torch.export.export.*contrast-arch onnx"
    ) as error:
        record(net)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_autocast_is_near_float32(name):
    """Half an epsilon of bfloat16 is 0.2%; a state or statistics in it would be further away, or not finite."""
    net, lq, gt = build(name)
    expected = loss_and_gradients(net, net, lq, gt)

    def narrow(lq):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net(lq)

    sr, *gradients = loss_and_gradients(narrow, net, lq, gt)
    assert relative_error(sr.float(), expected[0]) < 0.02
    for a, b in zip(gradients, expected[1:], strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.1 * b.norm() + 1e-6


def test_autocast_keeps_what_bfloat16_cannot_hold():
    """Steps of 1e-3 around a decay near one, and features with a mean a hundred times their spread."""
    norm = nn.LayerNorm(64)
    x = (100 + torch.randn(4, 64)).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        normed = norm(x)
    torch.testing.assert_close(normed.float(), norm(x.float()), rtol=0.01, atol=0.01)

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
