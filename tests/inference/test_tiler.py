"""Tiles against the whole image, at awkward sizes, and where memory is short."""

import logging
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contrast_arch import Contrast
from contrast_arch.inference.tiler import Tiler, blend_weights, tile_spans

SIZES = [(61, 47), (1, 1), (15, 200), (64, 64), (65, 33), (130, 16)]
TILES = [(16, 0), (32, 0), (32, 16), (48, 16), (64, 32)]


class Nearest(nn.Module):
    """Upscales without a parameter; refuses what has too many pixels, as an allocator would."""

    def __init__(self, scale=2, most=None, error=torch.cuda.OutOfMemoryError, text="CUDA out of memory"):
        super().__init__()
        self.scale, self.most, self.error, self.text = scale, most, error, text
        self.shapes = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape[2:]))
        if self.most is not None and x[0, 0].numel() > self.most:
            raise self.error(self.text)
        return F.interpolate(x, scale_factor=self.scale, mode="nearest")


class Local(nn.Module):
    """Sees three LQ pixels far."""

    def __init__(self, scale):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 1, 2), nn.GELU(), nn.Conv2d(8, 3 * scale**2, 3, 1, 1))
        self.up = nn.PixelShuffle(scale)

    def forward(self, x):
        return self.up(self.body(x))


def tiny():
    return Contrast(dims=12, depths=[1, 1], num_heads=[2, 2], window_size=4).eval()


@pytest.mark.parametrize("size, overlap", TILES)
@pytest.mark.parametrize("length", [1, 15, 16, 17, 33, 47, 48, 61, 64, 65, 100, 200])
def test_spans_are_aligned_overlap_and_reach_the_end(length, size, overlap):
    spans = tile_spans(length, size, overlap, 16)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert all(start % 16 == 0 and 0 < stop - start <= size for start, stop in spans)
    if length <= size:
        assert len(spans) == 1
        return
    assert all(stop - start == size for start, stop in spans[:-1])
    assert spans[-1][1] - spans[-1][0] > size - 16
    for (start, stop), (following, _) in pairwise(spans):
        assert start < following <= stop - overlap


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("size, overlap", TILES)
@pytest.mark.parametrize("length", [1, 33, 47, 61, 65, 100, 200])
def test_weights_add_up_to_one_and_ramps_are_inside_only(length, size, overlap, scale):
    spans = tile_spans(length, size, overlap, 16)
    total, shares = torch.zeros(length * scale), blend_weights(spans, scale)
    for (start, stop), weights in zip(spans, shares, strict=True):
        assert weights.dtype == torch.float32 and len(weights) == (stop - start) * scale and weights.min() >= 0
        total[start * scale : stop * scale] += weights
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=2e-7)
    assert shares[0][0] == 1 and shares[-1][-1] == 1


def test_weights_are_smooth():
    """From one output pixel to the next no share changes faster than a raised cosine over a quarter of the overlap, and
    near a tile's border it is nothing, also where three tiles meet at the end."""
    spans = tile_spans(200, 64, 32, 16)
    assert spans[-3][1] > spans[-1][0]
    shares = blend_weights(spans, 4)
    assert max(weights.diff().abs().max() for weights in shares) <= 1.1 * torch.pi / 2 / (8 * 4)
    assert all((weights[:48] == 0).all() for weights in shares[1:])
    assert all((weights[-48:] == 0).all() for weights in shares[:-1])


@pytest.mark.parametrize("height, width", [(13, 21), (24, 24), (1, 1)])
def test_a_tile_that_covers_the_image_is_the_network_itself(height, width):
    net, lq = tiny(), torch.rand(2, 3, height, width)
    with torch.no_grad():
        whole = net(lq)
    assert torch.equal(Tiler(24, window_size=4)(net, lq), whole)
    assert torch.equal(Tiler(240, 0, window_size=4)(net, lq), whole)


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("size, overlap", TILES)
@pytest.mark.parametrize("scale", [2, 3])
def test_a_network_without_surroundings_is_reproduced(height, width, size, overlap, scale):
    lq = torch.rand(2, 5, height, width)
    net = Nearest(scale)
    sr = Tiler(size, overlap, window_size=16)(net, lq)
    torch.testing.assert_close(sr, net(lq), rtol=0, atol=5e-7)


@pytest.mark.parametrize("height, width", [(61, 47), (15, 200)])
def test_a_local_network_is_reproduced(height, width):
    """A network that sees three eighths of the overlap, 6 pixels; without an overlap the result differs."""
    net, lq = Local(2).eval(), torch.rand(1, 3, height, width)
    with torch.no_grad():
        whole = net(lq)
    torch.testing.assert_close(Tiler(32, 16, window_size=16)(net, lq), whole, rtol=0, atol=1e-6)
    assert (Tiler(32, 0, window_size=16)(net, lq) - whole).abs().max() > 1e-3


def test_the_result_is_float32_on_the_cpu_without_gradient():
    net = Local(2).to(torch.bfloat16)
    for size in (16, 64):
        sr = Tiler(size, window_size=16)(net, torch.rand(1, 3, 30, 40, dtype=torch.bfloat16))
        assert sr.dtype == torch.float32 and sr.device.type == "cpu" and not sr.requires_grad
        assert sr.shape == (1, 3, 60, 80) and sr.isfinite().all()


def test_tiles_of_an_image_on_another_device_are_moved_one_by_one():
    """PyTorch's meta device stands for a GPU: what is computed there cannot come back, but it is asked for there."""
    devices = []
    net = Local(2).to("meta")
    net.register_forward_pre_hook(lambda module, inputs: devices.append((inputs[0].device.type, inputs[0].shape[2:])))
    with pytest.raises(NotImplementedError, match="meta"):
        Tiler(16, window_size=16)(net, torch.rand(1, 3, 40, 40))
    assert devices == [("meta", (16, 16))]


@pytest.mark.parametrize(
    "error, text",
    [
        (torch.cuda.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
        (RuntimeError, "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
        (RuntimeError, "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
        (RuntimeError, "CUDA error: out of memory"),
        (MemoryError, ""),
    ],
)
def test_tiles_get_smaller_when_memory_is_short(error, text, caplog):
    lq = torch.rand(1, 3, 100, 70)
    net = Nearest(2, 40 * 40, error, text)
    tiler = Tiler(96, 48, window_size=16)
    with caplog.at_level(logging.WARNING):
        sr = tiler(net, lq)
    torch.testing.assert_close(sr, Nearest(2)(lq), rtol=0, atol=5e-7)
    assert [record.name for record in caplog.records] == ["contrast_arch.inference.tiler"] * 2
    assert "tiles from here on are of size 48, overlap 16." in caplog.messages[0]
    assert "size 32, overlap 16." in caplog.messages[1]
    assert (text.splitlines() or ["MemoryError"])[0] in caplog.messages[0] and "\n" not in caplog.messages[0]
    assert (tiler.size, tiler.overlap) == (32, 16)

    caplog.clear()
    net.shapes.clear()
    tiler(net, lq)
    assert not caplog.records and max(net.shapes) == (32, 32)


def test_a_covering_tile_that_does_not_fit_is_halved_by_what_the_image_needs():
    """Half of a tile that is far larger than the image would be the image again."""
    net = Nearest(3, 50 * 50)
    tiler = Tiler(1024, window_size=16)
    lq = torch.rand(1, 3, 60, 75)
    torch.testing.assert_close(tiler(net, lq), Nearest(3)(lq), rtol=0, atol=5e-7)
    assert net.shapes[:2] == [(60, 75), (48, 48)] and (tiler.size, tiler.overlap) == (48, 16)


def test_memory_that_ends_amid_an_image_begins_it_anew():
    class Ending(Nearest):
        def forward(self, x):
            if len(self.shapes) == 2:
                self.most = 40 * 40
            return super().forward(x)

    lq = torch.rand(1, 3, 120, 120)
    torch.testing.assert_close(Tiler(64, window_size=16)(Ending(), lq), Nearest()(lq), rtol=0, atol=5e-7)


def test_one_window_that_does_not_fit_and_other_errors():
    for height, width in ((100, 70), (7, 9)):
        network = Nearest(2, 10)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            Tiler(64, window_size=16)(network, torch.rand(1, 3, height, width))
        assert max(network.shapes[-1]) <= 16
    with pytest.raises(RuntimeError, match="shapes do not match"):
        Tiler(64, window_size=16)(Nearest(2, 10, RuntimeError, "shapes do not match"), torch.rand(1, 3, 100, 70))


@pytest.mark.parametrize(
    "size, overlap, message",
    [
        (100, None, "tile size=100: expected a multiple of window_size=16, such as 96"),
        (8, None, "tile size=8: expected a multiple of window_size=16, such as 16"),
        (0, None, "tile size=0: expected a multiple of window_size=16, such as 16"),
        (64, 8, "tile overlap=8: expected a multiple of window_size=16 from 0 to 32"),
        (64, 48, "tile overlap=48: expected a multiple of window_size=16 from 0 to 32"),
        (64, -16, "tile overlap=-16: expected a multiple"),
        (16, 16, "from 0 to 0, what half of size=16 has room for"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(size, overlap, message):
    with pytest.raises(ValueError) as raised:
        Tiler(size, overlap, window_size=16)
    assert message in str(raised.value)


def test_the_default_overlap_is_two_windows_where_there_is_room():
    found = {size: Tiler(size, window_size=16).overlap for size in (16, 32, 48, 64, 256)}
    assert found == {16: 0, 32: 16, 48: 16, 64: 32, 256: 32}


def test_images_and_networks_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 20, 20\): expected \(B, C, H, W\)"):
        Tiler(16, window_size=16)(Nearest(), torch.rand(3, 20, 20))
    with pytest.raises(RuntimeError, match="must match the size"):
        Tiler(16, window_size=16)(nn.Conv2d(3, 3, 3), torch.rand(1, 3, 20, 20))


def test_progress_is_shown_on_a_terminal_only(capfd, monkeypatch):
    lq = torch.rand(1, 3, 40, 40)
    Tiler(16, window_size=16, progress=True)(Nearest(), lq)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    Tiler(16, window_size=16, progress=True)(Nearest(), lq)
    assert "0/9" in capfd.readouterr().err
