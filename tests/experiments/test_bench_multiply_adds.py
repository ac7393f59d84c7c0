"""Multiply-adds against counts made in other ways: by hand, by running, and by watching the definition of the scan."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

import contrast_arch
from contrast_arch.experiments.bench.multiply_adds import count, lq_size
from contrast_arch.experiments.bench.networks import upstream_hat
from contrast_arch.ops import ENVIRONMENT, check_backend, ss2d_scan
from contrast_arch.ops.ss2d import reference

SMALL = {"dims": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 4}
SETTINGS = {
    "ContrastNoPE": {"ssm_ratio": 2.0, "ssm_d_state": 3, "upsampler": "pixelshuffle", "upscale": 2},
    "ContrastNoPENoCA": {"forward_type": "v05", "gmlp": True, "ssm_dt_rank": 3},
    "MambaLight": {"in_chans": 1},
    "HATLight": {"overlap_ratio": 1.0},
    "ContrastV2": {"mlp_ratio": 1.5},
}


def small(name):
    return getattr(contrast_arch, name)(**SMALL, **SETTINGS.get(name, {}))


# By hand: networks of 12 channels with one block, windows of 4, keys of 6x6, X2, for an LQ image of 8x8.
PIXELS, C = 64, 12
# To 4 channels and back; the two 1x1 convolutions between 12 channels and 1 see one vector an image.
CHANNEL_ATTENTION = PIXELS * (9 * C * 4 + 9 * 4 * C) + 2 * C
# Input, depthwise convolution, four directions of dt_rank 1 and a B and C of one state, their scan, output.
SS2D_MIXER = PIXELS * (C * C + 9 * C + 4 * C * (1 + 1 + 1) + 4 * C * (1 + 4 + 2) + C * C)
# q, k and v; q k^T and the sum over v, for 16 keys a pixel or 36; output.
WINDOWS = PIXELS * (3 * C * C + 2 * 16 * C + C * C)
OVERLAP = PIXELS * (3 * C * C + 2 * 36 * C + C * C)
# To 24 channels and back.
MLP = PIXELS * 2 * C * 24
# To 24 channels; a depthwise convolution of half of them; from the other half back.
GATED_MLP = PIXELS * (C * 24 + 9 * C + C * C)
# The bias of 9x9 distances: 2 coordinates to 3 channels, twice 3 to 3, to 2 heads.
COMPUTED_BIAS = 81 * (2 * 3 + 3 * 3 + 3 * 3 + 3 * 2)
# From RGB, behind the group, behind the body, and to 2x2 pixels of RGB.
CONVOLUTIONS = PIXELS * 9 * (3 * C + C * C + C * C + C * 12)
BY_HAND = {
    "Contrast": CONVOLUTIONS + SS2D_MIXER + CHANNEL_ATTENTION + MLP + OVERLAP + MLP,
    "ContrastNoPENoCA": CONVOLUTIONS + SS2D_MIXER + MLP + OVERLAP + MLP,
    "MambaLight": CONVOLUTIONS + SS2D_MIXER + MLP,
    "HATLight": CONVOLUTIONS + WINDOWS + CHANNEL_ATTENTION + MLP + OVERLAP + MLP,
    "ContrastV2": CONVOLUTIONS + SS2D_MIXER + GATED_MLP + OVERLAP + COMPUTED_BIAS + GATED_MLP,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_as_counted_by_hand(name):
    sizes = {"dims": C, "depths": [1], "num_heads": [2], "window_size": 4, "mlp_ratio": 2.0, "upscale": 2}
    net = getattr(contrast_arch, name)(**sizes, upsampler="pixelshuffledirect")
    assert count(net, (8, 8)) == BY_HAND[name]


def attention_on_the_cpu(q, k, v, *args, out_shape=None, **kwargs):
    batch, heads, queries, head_dim = q
    return 4 * batch * heads * queries * k[2] * head_dim


# PyTorch's counter does not know its own kernel before version 2.15.
if torch.ops.aten._scaled_dot_product_flash_attention_for_cpu not in flop_registry:
    register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu)(attention_on_the_cpu)


@pytest.mark.parametrize(
    "name, training", [("ContrastNoPE", False), ("ContrastNoPENoCA", True), ("HATLight", False), ("ContrastV2", True)]
)
@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_the_same_whichever_backend_computes(name, backend, training, monkeypatch):
    try:
        check_backend("ss2d", backend, torch.device("cpu"))
    except RuntimeError as reason:
        pytest.skip(str(reason))
    monkeypatch.setenv(ENVIRONMENT, backend)
    net = small(name)
    with torch.set_grad_enabled(training), FlopCounterMode(display=False) as counter:
        net(torch.rand(1, 3, 8, 12))
    assert counter.get_total_flops() == 2 * count(net, (8, 12))


class Products(TorchDispatchMode):
    """Counts what is multiplied, one number with another or in a matrix product; indices are not."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm):
            self.total += out.numel() * args[0].shape[-1]
        elif function.overloadpacket == torch.ops.aten.mul and out.is_floating_point():
            self.total += out.numel()
        return out


def test_the_scan_as_its_definition_multiplies():
    batch, height, width, dim, rank, state = 2, 3, 5, 6, 2, 3
    k = reference.DIRECTIONS
    shapes = [(batch, height, width, dim), (batch, height, width, k, rank + 2 * state), (k, dim, rank), (k, dim)]
    inputs = [torch.rand(shape) for shape in (*shapes, (k * dim, state), (k * dim,))]
    with Products() as products:
        reference.ss2d(*inputs)
    with FlopCounterMode(display=False) as counter:
        ss2d_scan(*(t.to("meta") for t in inputs))
    assert products.total == batch * height * width * k * dim * (rank + 4 * state + 2)
    assert counter.get_total_flops() == 2 * products.total


def test_twice_the_area_is_twice_the_count_and_what_fills_the_windows_counts():
    one = count(small("MambaLight"), (8, 12))
    assert one > 0 and count(small("MambaLight"), (16, 12)) == count(small("MambaLight"), (8, 24)) == 2 * one
    assert count(small("Contrast"), (5, 11)) == count(small("Contrast"), (8, 12)) > count(small("Contrast"), (4, 8))


def test_a_forced_definition_is_not_gone_through(monkeypatch):
    """Step by step the scan of 720p would take hours, and none of its products be counted."""
    expected = count(small("Contrast"), lq_size(4))
    monkeypatch.setenv(ENVIRONMENT, "reference")
    assert count(small("Contrast"), lq_size(4)) == expected


def test_upstream_hat_counts_as_hat_light():
    """The same layers in another's code."""
    pytest.importorskip("spandrel")
    sizes = {"dims": 30, "depths": (2,), "window_size": 4}
    ours = contrast_arch.HATLight(**sizes, num_heads=(6,))
    assert count(upstream_hat(**sizes, heads=(6,)), (7, 12)) == count(ours, (7, 12)) > 0


@pytest.mark.parametrize(("scale", "size"), [(1, (720, 1280)), (2, (360, 640)), (3, (240, 427)), (4, (180, 320))])
def test_lq_of_720p(scale, size):
    assert lq_size(scale) == size
