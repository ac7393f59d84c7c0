"""The networks under torch.compile, torch.export and autocast."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import contrast_arch.archs.contrast_arch as archs
from tests.conftest import relative_error

NETWORKS = ["Contrast", "ContrastNoPE", "ContrastNoPENoCA", "MambaLight", "HATLight"]
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


@pytest.mark.parametrize("name", NETWORKS)
def test_exports_with_dynamic_height_and_width(name):
    """For sizes in whole windows, from two windows on."""
    net, _, _ = build(name)
    height, width = 4 * torch.export.Dim("rows", min=2, max=1024), 4 * torch.export.Dim("columns", min=2, max=1024)
    example = torch.rand(1, 3, 12, 16)
    exported = torch.export.export(net.eval(), (example,), dynamic_shapes=({2: height, 3: width},)).module()
    for size in [(12, 16), (8, 8), (20, 28)]:
        lq = torch.rand(1, 3, *size)
        torch.testing.assert_close(exported(lq), net(lq))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.usefixtures("unwritten_is_nan")
def test_a_traced_network_refuses_what_is_no_whole_window(monkeypatch):
    """Padding is fixed by the trace; pixels outside all windows would be left unwritten."""
    monkeypatch.delenv("CONTRAST_ARCH_BACKEND", raising=False)
    net = archs.Contrast(**SMALL).eval()
    with torch.no_grad():
        traced = torch.jit.trace(net, torch.rand(1, 3, 8, 8), check_trace=False)
        lq = torch.rand(1, 3, 12, 8)
        torch.testing.assert_close(traced(lq), net(lq))
        with pytest.raises(RuntimeError, match="9x8 pixels are no whole windows of 4x4"):
            traced(torch.rand(1, 3, 9, 8))


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
