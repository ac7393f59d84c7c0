"""Arrays, Pillow images and tensors, by value, on photographs and on networks whose result is known."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import nn

import contrast_arch
from contrast_arch.errors import InputError
from contrast_arch.inference import upscale as module
from contrast_arch.inference.files import DEFAULT_MODEL
from contrast_arch.inference.upscale import Upscaler, bf16_is_fast, bleed, lanczos, tile_size
from contrast_arch.memory import Memory
from tests.conftest import SET5

LR = SET5 / "LR_bicubic" / "X4"
BIRD = np.asarray(Image.open(LR / "birdx4.png"))


class Nearest(nn.Module):
    """Repeats pixels; the window is one pixel, and memory or precision can run out."""

    def __init__(self, upscale=2, in_chans=3, most=None, half=None):
        super().__init__()
        self.upscale, self.in_chans, self.most, self.half = upscale, in_chans, most, half
        self.shapes, self.dtypes = [], []

    def forward(self, x):
        assert x.shape[1] == self.in_chans
        self.shapes.append(tuple(x.shape))
        narrow = torch.is_autocast_enabled(x.device.type)
        self.dtypes.append(torch.get_autocast_dtype(x.device.type) if narrow else x.dtype)
        if self.most and x[0, 0].numel() > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        sr = F.interpolate(x, scale_factor=self.upscale, mode="nearest")
        return sr * self.half if narrow and self.half is not None else sr


@pytest.fixture(autouse=True)
def same_on_every_machine(monkeypatch):
    monkeypatch.setattr(module, "bf16_is_fast", lambda device: False)


def repeated(pixels, scale=2):
    return pixels.repeat(scale, 0).repeat(scale, 1)


@pytest.fixture(scope="module")
def network():
    return contrast_arch.load_pretrained(DEFAULT_MODEL)


def psnr(a, b):
    return -10 * np.log10(((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2).mean() / 255**2)


def test_a_photograph_is_what_the_network_makes_of_it(network):
    """As a whole to the bit, in tiles within 50 dB."""
    with torch.no_grad():
        whole = network(torch.from_numpy(BIRD / np.float32(255)).permute(2, 0, 1)[None]).clamp(0, 1)[0]
    whole = (whole * 255).permute(1, 2, 0).numpy()
    image = contrast_arch.upscale(Image.fromarray(BIRD), DEFAULT_MODEL, tile=0)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), whole.round())
    assert 50 < psnr(contrast_arch.upscale(BIRD, network, tile=64), whole) < 100


def test_the_ensemble_averages_eight_flips_and_turns(network):
    crop = BIRD[:24, :16]
    lq = torch.from_numpy(crop / np.float32(255)).permute(2, 0, 1)[None]
    total = 0
    with torch.no_grad():
        for k in range(4):
            for mirrored in (False, True):
                turned = torch.rot90(lq.flip(3) if mirrored else lq, k, (2, 3))
                sr = torch.rot90(network(turned), -k, (2, 3))
                total = total + (sr.flip(3) if mirrored else sr)
    found = contrast_arch.upscale(lq[0], network, ensemble=True)
    torch.testing.assert_close(found, (total / 8).clamp(0, 1)[0], rtol=0, atol=1e-5)
    assert (found - contrast_arch.upscale(lq[0], network)).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
@pytest.mark.parametrize("in_chans", [1, 3])
def test_arrays_come_back_of_their_kind(dtype, shape, in_chans):
    values = np.random.default_rng(0).random(shape)
    floats = np.issubdtype(dtype, np.floating)
    image = values.astype(dtype) if floats else (values * np.iinfo(dtype).max).astype(dtype)
    net = Nearest(in_chans=in_chans)
    sr = contrast_arch.upscale(image, net)
    assert sr.dtype == dtype and isinstance(sr, np.ndarray)
    np.testing.assert_allclose(sr, repeated(image), rtol=0, atol=1e-6 if floats else 0)
    assert contrast_arch.upscale(image[::-1, ::2], net).shape == (10, 8, *shape[2:])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 5, 7), (2, 3, 5, 7)])
def test_tensors_come_back_of_their_kind(dtype, shape):
    values = torch.rand(shape)
    image = values.to(dtype) if dtype.is_floating_point else (values * torch.iinfo(dtype).max).int().to(dtype)
    sr = contrast_arch.upscale(image, Nearest())
    assert sr.dtype == dtype and not sr.requires_grad and sr.shape == (*shape[:-2], 10, 14)
    np.testing.assert_allclose(sr[..., ::2, ::2].double().numpy(), image.double().numpy(), rtol=0, atol=1e-7)


def test_pillow_images_keep_their_mode_and_info():
    image = Image.fromarray(BIRD)
    image.info["icc_profile"] = b"profile"
    for mode in ("L", "LA", "RGB", "RGBA"):
        one = image.convert(mode)
        sr = contrast_arch.upscale(one, Nearest())
        assert sr.mode == mode and sr.info["icc_profile"] == b"profile"
        np.testing.assert_array_equal(np.asarray(sr), repeated(np.asarray(one)))
    deep = Image.fromarray(BIRD[..., 0].astype(np.uint16) * 256)
    sr = contrast_arch.upscale(deep, Nearest())
    assert sr.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(sr), repeated(np.asarray(deep)))
    assert contrast_arch.upscale(image.convert("P"), Nearest()).mode == "RGB"
    ink = image.convert("CMYK")
    ink.info["icc_profile"] = b"a broken profile"
    sr = contrast_arch.upscale(ink, Nearest())
    assert sr.mode == "RGB" and not sr.info
    np.testing.assert_array_equal(np.asarray(sr), repeated(np.asarray(ink.convert("RGB"))))


def test_grey_goes_through_three_channels_as_grey(network):
    grey = BIRD[:24, :16, 1]
    sr = contrast_arch.upscale(grey, network)
    colour = contrast_arch.upscale(np.stack([grey] * 3, -1).astype(np.float32) / 255, network)
    assert sr.ndim == 2
    np.testing.assert_allclose(sr, colour.mean(-1) * 255, rtol=0, atol=0.6)


def test_colours_go_through_one_channel_one_by_one():
    net = Nearest(in_chans=1)
    contrast_arch.upscale(BIRD[:6, :8], net)
    assert net.shapes == [(3, 1, 6, 8)]


def disc(side):
    """Alpha of a disc, antialiased."""
    alpha = Image.new("L", (256, 256))
    ImageDraw.Draw(alpha).ellipse((40, 40, 216, 216), fill=255)
    return np.asarray(alpha.resize((side, side), Image.Resampling.BOX))


def logo(hidden):
    """A red disc on nothing; ``hidden`` is the colour of what is transparent."""
    alpha = disc(32)
    return np.dstack([np.where(alpha[..., None] > 0, np.uint8([200, 30, 30]), np.uint8(hidden)), alpha])


@pytest.mark.parametrize("hidden", [(255, 255, 255), (0, 255, 0)])
def test_no_fringe_at_the_edges_of_a_logo(network, hidden):
    sr = contrast_arch.upscale(logo(hidden), network).astype(int)
    assert sr.shape == (128, 128, 4)
    visible = sr[..., 3] > 0
    assert 0.3 < visible.mean() < 0.6
    red = contrast_arch.upscale(np.full((32, 32, 3), [200, 30, 30], np.uint8), network)
    assert np.abs(sr[..., :3] - red).max() <= 1
    assert (sr[0, :, 3] == 0).all() and (sr[60:68, 60:68, 3] == 255).all()
    bicubic = np.asarray(Image.fromarray(disc(32)).resize((128, 128), Image.Resampling.BICUBIC))
    assert psnr(sr[..., 3], disc(128)) > psnr(bicubic, disc(128)) + 3


def test_bleeding_fills_holes_from_around_them_and_touches_nothing_else():
    colour, alpha = torch.rand(3, 21, 13), (torch.rand(1, 21, 13) > 0.7).float() * 0.1
    filled = bleed(colour, alpha)
    torch.testing.assert_close(filled * (alpha > 0), colour * (alpha > 0), rtol=0, atol=0)
    shown = colour[:, alpha[0] > 0]
    assert (filled >= shown.amin(1)[:, None, None] - 1e-6).all() and (
        filled <= shown.amax(1)[:, None, None] + 1e-6
    ).all()
    left = torch.zeros(1, 8, 8)
    left[..., :2] = 1
    left[..., 7] = 1
    steps = bleed(torch.arange(8.0).expand(1, 8, 8) / 7, left)[0, 0]
    assert steps[2] < 0.3 and steps[6] > 0.7
    assert torch.equal(bleed(colour, torch.zeros(1, 21, 13)).isfinite(), torch.ones(3, 21, 13, dtype=torch.bool))


def test_opaque_images_go_through_the_network_once():
    net = Nearest()
    image = np.dstack([BIRD[:6, :8], np.full((6, 8), 255, np.uint8)])
    np.testing.assert_array_equal(contrast_arch.upscale(image, net), repeated(image))
    assert len(net.shapes) == 1


@pytest.mark.parametrize(
    "settings, size, runs",
    [
        ({}, (16, 12), 1),
        ({"factor": 2}, (16, 12), 1),
        ({"factor": 1}, (8, 6), 0),
        ({"factor": 1.5}, (12, 9), 1),
        ({"factor": 3}, (24, 18), 2),
        ({"factor": 4}, (32, 24), 2),
        ({"factor": 4.1}, (33, 25), 3),
        ({"out_size": (17, 5)}, (17, 5), 2),
        ({"out_size": (8, 12)}, (8, 12), 1),
        ({"out_size": (4, 3)}, (4, 3), 0),
    ],
)
def test_any_size(settings, size, runs):
    net, image = Nearest(), BIRD[:6, :8]
    sr = contrast_arch.upscale(image, net, **settings)
    assert sr.shape[1::-1] == size and len(net.shapes) == runs
    known = torch.from_numpy(repeated(image, 2**runs) / np.float32(255)).permute(2, 0, 1)
    expected = (lanczos(known, *size) * 255).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(sr, expected)


def test_lanczos_is_pillows():
    sr = lanczos(torch.from_numpy(BIRD / np.float32(255)).permute(2, 0, 1), 50, 91)
    expected = np.asarray(Image.fromarray(BIRD).resize((50, 91), Image.Resampling.LANCZOS))
    # Pillow clips 8-bit images between the axes.
    assert np.abs(sr.permute(1, 2, 0).numpy() * 255 - expected).mean() < 0.5


def test_networks_without_attributes():
    class Plain(nn.Module):
        def forward(self, x):
            return F.interpolate(x, scale_factor=3, mode="nearest")

    np.testing.assert_array_equal(contrast_arch.upscale(BIRD, Plain()), repeated(BIRD, 3))
    with pytest.raises(InputError, match="Flatten: expected a network that makes both sides a whole number"):
        contrast_arch.upscale(BIRD, nn.Flatten())
    with pytest.raises(InputError, match="72x72 to 144x144: the network has a scale of 1"):
        contrast_arch.upscale(BIRD, Nearest(1), factor=2)
    np.testing.assert_array_equal(contrast_arch.upscale(BIRD, Nearest(1)), BIRD)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_precision_is_used(name, caplog):
    net = Nearest()
    contrast_arch.upscale(BIRD, net, dtype=name)
    assert net.dtypes == [module.DTYPES[name]] and not caplog.records


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_in_half_precision_is_done_again(value, caplog):
    net = Nearest(half=value)
    with caplog.at_level(logging.WARNING):
        sr = contrast_arch.upscale(BIRD, net, dtype="fp16", tile=48)
    np.testing.assert_array_equal(sr, repeated(BIRD))
    assert caplog.messages == ["NaN or infinity in torch.float16: done again in fp32"]
    assert net.dtypes[:2] == [torch.float16, torch.float32]


def test_what_is_not_finite_in_float32_is_an_error():
    class Broken(Nearest):
        def forward(self, x):
            return super().forward(x) * float("nan")

    for dtype in ("fp32", "bf16"):
        with pytest.raises(InputError, match="NaN or infinity, in fp32 too; check its weights"):
            contrast_arch.upscale(BIRD, Broken(), dtype=dtype)


def test_bf16_is_for_8_bits(network, monkeypatch):
    """Within 0.5 grey levels on average; 16 bits and floats are not rounded to bf16's 8."""
    net = Nearest()
    crop = BIRD[:24, :24]
    expected = contrast_arch.upscale(crop, network)
    monkeypatch.setattr(module, "bf16_is_fast", lambda device: device.type == "cpu")
    for image in (BIRD, BIRD.astype(np.uint16) * 257, BIRD / np.float32(255)):
        contrast_arch.upscale(image, net)
    assert net.dtypes == [torch.bfloat16, torch.float32, torch.float32]
    contrast_arch.upscale(BIRD, net, dtype="fp32")
    assert net.dtypes[-1] == torch.float32
    difference = np.abs(contrast_arch.upscale(crop, network).astype(int) - expected)
    assert 0 < difference.mean() < 0.5 and difference.max() <= 4


def test_what_a_cpu_says_of_bf16(monkeypatch):
    for flags, expected in (("fma avx512f", False), ("fma avx512_bf16", True), ("amx_tile amx_bf16", True)):
        monkeypatch.setattr(module.Path, "read_text", lambda path, flags=flags: f"flags : {flags}\n")
        assert bf16_is_fast(torch.device("cpu")) is expected


def test_memory():
    assert tile_size(48, 48, 16, None) == 1024
    assert tile_size(48, 48, 16, Memory(2**40, 2**40)) == 1024
    assert tile_size(48, 48, 16, Memory(2**30, 2**28)) == 160
    assert tile_size(48, 48, 16, Memory(2**30, 0)) == 128
    net = Nearest(most=40 * 40)
    np.testing.assert_array_equal(contrast_arch.upscale(BIRD, net), repeated(BIRD))
    assert net.shapes[0][2:] == (72, 72) and net.shapes[-1][2:] == (36, 36)


@pytest.mark.parametrize(
    "image, settings, message",
    [
        (BIRD, {"factor": 0.5}, "factor 0.5, out-size None: expected one of the two, a factor from 1"),
        (BIRD, {"factor": float("nan")}, "factor nan, out-size None: expected one"),
        (BIRD, {"factor": 2, "out_size": (1, 1)}, "factor 2, out-size (1, 1): expected one of the two"),
        (BIRD, {"out_size": (0, 5)}, "out-size 0 5: expected width and height, 1 or more each"),
        (BIRD, {"tile": -1}, "tile -1: expected auto, 0"),
        (BIRD, {"tile": "big"}, "tile big: expected auto, 0"),
        (BIRD, {"dtype": "int8"}, "dtype int8: expected auto, fp32, bf16, fp16"),
        (BIRD.astype(np.float32), {}, "floats from 0 to 254: expected [0, 1]; or give uint8"),
        (np.full((4, 4), np.nan), {}, "floats from nan to nan: expected [0, 1]"),
        (BIRD.astype(int), {}, "values of torch.int64: expected uint8, uint16 or floats"),
        (
            BIRD[..., :0],
            {},
            "an image (C, H, W) of shape (0, 72, 72): expected C from 1 to 4; arrays are (H, W) or (H, W, C)",
        ),
        (BIRD.transpose(2, 0, 1), {}, "an image (C, H, W) of shape (72, 3, 72): expected C from 1 to 4"),
        (torch.rand(5, 5), {}, "an image (C, H, W) of shape (5, 5): expected C from 1 to 4"),
        (Image.new("F", (4, 4)), {}, "pixels of kind F; expected 8 bits, or 16 bits of grey"),
        ("bird.png", {}, "an image of type str: expected a NumPy array, a Pillow image or a tensor"),
    ],
)
def test_what_does_not_fit_is_refused(image, settings, message):
    with pytest.raises(InputError) as raised:
        contrast_arch.upscale(image, Nearest(), **settings)
    assert message in str(raised.value)


def test_networks_and_tiles_that_do_not_fit_are_refused(network):
    with pytest.raises(InputError, match="tile size=100: expected a multiple of window_size=16"):
        Upscaler(network, tile=100)
