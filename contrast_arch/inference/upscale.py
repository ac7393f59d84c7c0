"""Arrays, Pillow images and tensors through a network: any size, factor and kind of colour."""

import contextlib
import logging
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from contrast_arch.errors import InputError
from contrast_arch.inference.images import from_pillow, to_pillow
from contrast_arch.inference.tiler import Tiler
from contrast_arch.memory import device_memory

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LARGEST_TILE = 1024
# Smaller ones lose too much of what the scan sees; the tiler takes them only where memory runs out.
SMALLEST_TILE = 128
# Peak of a forward pass on the CPU, float32, in floats an LQ pixel: so many for each channel of the network's width
# and for each output value.
FLOATS_PER_CHANNEL, FLOATS_PER_OUTPUT = 20, 4
# Of a CPU with products in bfloat16.
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
# Share of the free memory that a tile may take.
SHARE = 0.5


class Upscaler(nn.Module):
    """A network with the settings of :func:`upscale`; ``scale`` is the network's.

    Of a network without the attributes ``upscale``, ``in_chans`` and ``window_size`` the scale is measured, and 3
    channels and no windows are assumed.
    """

    def __init__(
        self,
        network: nn.Module,
        factor: float | None = None,
        out_size: tuple[int, int] | None = None,
        tile: int | str = "auto",
        dtype: str = "auto",
        ensemble: bool = False,
        progress: bool = False,
    ):
        super().__init__()
        if factor is not None and (out_size is not None or not 1 <= factor < math.inf):
            raise InputError(f"factor {factor}, out-size {out_size}: expected one of the two, a factor from 1")
        if out_size is not None and min(out_size) < 1:
            raise InputError(f"out-size {' '.join(map(str, out_size))}: expected width and height, 1 or more each")
        if dtype not in ("auto", *DTYPES):
            raise InputError(f"dtype {dtype}: expected auto, {', '.join(DTYPES)}")
        self.network, self._ensemble = network, ensemble
        self.device = next(network.parameters(), torch.empty(0)).device
        self.channels = getattr(network, "in_chans", 3)
        self.scale = getattr(network, "upscale", None) or self._measured_scale()
        self._factor, self._out_size = self.scale if factor is None else factor, out_size
        coarse = torch.bfloat16 if bf16_is_fast(self.device) else torch.float32
        self._coarse_dtype, self._fine_dtype = (DTYPES.get(dtype, auto) for auto in (coarse, torch.float32))
        window = getattr(network, "window_size", 1)
        if tile == "auto":
            width = next((module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)), 180)
            tile = tile_size(width, self.scale**2 * self.channels, window, device_memory(self.device))
        try:
            self._tiler = Tiler(tile, window_size=window, progress=progress) if tile else None
        except (ValueError, TypeError) as error:
            raise InputError(f"tile {tile}: expected auto, 0 (the whole image) or LQ pixels: {error}") from error

    @torch.no_grad()
    def _measured_scale(self):
        shape = self.network(torch.zeros(1, self.channels, 64, 64, device=self.device)).shape
        scale = shape[-1] // 64
        if not scale or shape[2:] != (64 * scale, 64 * scale):
            name = type(self.network).__name__
            raise InputError(f"{name}: expected a network that makes both sides a whole number of times larger")
        return scale

    def out_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the result of an image."""
        if self._out_size is not None:
            return tuple(self._out_size)
        return max(1, round(width * self._factor)), max(1, round(height * self._factor))

    def passes(self, width: int, height: int) -> int:
        """Number of times that an image of this size goes through the network."""
        wide, high = self.out_size(width, height)
        factor = max(wide / width, high / height)
        if self.scale == 1 and factor > 1:
            raise InputError(f"{width}x{height} to {wide}x{high}: the network has a scale of 1")
        return 1 if self.scale == 1 else max(0, math.ceil(math.log(factor, self.scale) - 1e-9))

    def pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Upscale an array (H, W, C), see :meth:`values`."""
        # A copy: PyTorch warns about arrays that are not writable, and takes no negative strides.
        image = torch.from_numpy(np.array(pixels, order="C")).movedim(-1, 0)
        return self.values(image).movedim(0, -1).contiguous().numpy()

    def values(self, image: torch.Tensor) -> torch.Tensor:
        """Upscale an image (C, H, W) of uint8, uint16 or floats in [0, 1]; the result has its dtype and device.

        C is 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha).
        """
        if image.dim() != 3 or image.shape[0] not in (1, 2, 3, 4) or 0 in image.shape:
            raise InputError(
                f"an image (C, H, W) of shape {tuple(image.shape)}: expected C from 1 to 4; arrays are (H, W) or "
                "(H, W, C), tensors (C, H, W) or (B, C, H, W)"
            )
        if not image.is_floating_point() and image.dtype not in (torch.uint8, torch.uint16):
            raise InputError(f"values of {image.dtype}: expected uint8, uint16 or floats in [0, 1]")
        most = 1 if image.is_floating_point() else torch.iinfo(image.dtype).max
        planes = image.detach().cpu().float() / most
        low, high = planes.min().item(), planes.max().item()
        # NaN is neither.
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise InputError(f"floats from {low:.4g} to {high:.4g}: expected [0, 1]; or give uint8")
        # The 8 bits of bfloat16 are enough for results of 8 bits alone.
        self._dtype = self._coarse_dtype if image.dtype == torch.uint8 else self._fine_dtype
        self._warned, planes = False, planes.clamp(0, 1)
        if image.shape[0] in (1, 3):
            result = self._part(planes)
        else:
            alpha = planes[-1:]
            result = torch.cat([self._part(bleed(planes[:-1], alpha)), self._part(alpha, is_alpha=True)])
        return (result if most == 1 else (result * most).round_()).to(image.device, image.dtype)

    def _part(self, part, is_alpha=False):
        wide, high = self.out_size(*part.shape[:0:-1])
        # Opaque images need no second run.
        if is_alpha and (part == part[:, :1, :1]).all():
            return part[:, :1, :1].expand(-1, high, wide).clone()
        for _ in range(self.passes(*part.shape[:0:-1])):
            # Colours go through a network of one channel one by one, and grey through three as grey.
            lq = part[:, None] if self.channels == 1 else part.expand(1, 3, -1, -1)
            sr = self._tiler(self, lq) if self._tiler else self(lq.to(self.device)).cpu()
            if not sr.isfinite().all():
                raise InputError("the network's result holds NaN or infinity, in fp32 too; check its weights")
            sr = sr.clamp_(0, 1).flatten(0, 1)
            sr = sr if len(sr) == len(part) else sr.mean(0, keepdim=True)
            if is_alpha:  # what is transparent or opaque to one pixel around stays so
                limits = -F.max_pool2d(-part, 3, 1, 1), F.max_pool2d(part, 3, 1, 1)
                sr = sr.clamp(*(F.interpolate(limit[None], sr.shape[1:])[0] for limit in limits))
            part = sr
        return lanczos(part, wide, high)

    @torch.no_grad()
    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        """Run the network, with the ensemble over eight flips and turns; (B, C, H, W) -> float32."""
        if not self._ensemble:
            return self._once(lq)
        total = 0
        for turned in (False, True):
            for axes in ((), (2,), (3,), (2, 3)):
                sr = self._once((lq.transpose(2, 3) if turned else lq).flip(axes)).flip(axes)
                total = total + (sr.transpose(2, 3) if turned else sr)
        return total / 8

    def _once(self, lq):
        if self._dtype != torch.float32:
            with torch.autocast(lq.device.type, self._dtype):
                sr = self.network(lq).float()
            if sr.isfinite().all():
                return sr
            if not self._warned:
                log.warning(f"NaN or infinity in {self._dtype}: done again in fp32")
                self._warned = True
        return self.network(lq).float()


def upscale(image, network, **settings):
    """Upscale an image.

    Args:
        image: a NumPy array (H, W) or (H, W, C), a Pillow image, or a tensor (C, H, W) or (B, C, H, W) on any device;
            C is 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha). Values are uint8, uint16 or floats in
            [0, 1].
        network: LQ (B, C, H, W) in [0, 1] -> (B, C, scale * H, scale * W), C of 1 or 3, in evaluation mode and on the
            device on which it is to run; or what :func:`~contrast_arch.load_pretrained` takes.
        settings:
            factor: by how much both sides grow; None takes the network's scale. The network runs as often as it
                takes, then Lanczos makes the size exact.
            out_size: (width, height) in place of a factor.
            tile: side of the tiles in LQ pixels, 0 for none; "auto" takes the largest that free memory allows.
            dtype: "fp32", "bf16" or "fp16"; "auto" takes bf16 for 8-bit images on a GPU or CPU that has it in
                hardware, else fp32. A result that is not finite in half precision is computed again in fp32.
            ensemble: average over the eight flips and turns of the image.
            progress: show a bar over tiles, on a terminal.

    Returns:
        An image of the same type, dtype, device and range. Pillow images keep their mode; palettes become RGB or RGBA,
        CMYK becomes RGB.

    Raises:
        InputError: an image, a setting or a network that does not fit; the message says what does.
    """
    if not isinstance(network, nn.Module):
        from contrast_arch import load_pretrained

        network = load_pretrained(network)
    upscaler = Upscaler(network, **settings)
    if isinstance(image, Image.Image):
        result = to_pillow(upscaler.pixels(from_pillow(image)))
        # A profile of inks fits no RGB.
        dropped = ("transparency", "icc_profile") if image.mode == "CMYK" else ("transparency",)
        result.info = {key: value for key, value in image.info.items() if key not in dropped}
        return result
    if isinstance(image, np.ndarray):
        return upscaler.pixels(image[..., None])[..., 0] if image.ndim == 2 else upscaler.pixels(image)
    if not isinstance(image, torch.Tensor):
        raise InputError(f"an image of type {type(image).__name__}: expected a NumPy array, a Pillow image or a tensor")
    return torch.stack([*map(upscaler.values, image)]) if image.dim() == 4 else upscaler.values(image)


def bleed(colour: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Fill the pixels of a colour (C, H, W) whose alpha (1, H, W) is 0 with the colours around them.

    Visible pixels are averaged over ever larger squares, and each hole takes the smallest square that has any.
    """
    weight = (alpha > 0).to(colour.dtype)
    if weight.all() or max(weight.shape[1:]) == 1:
        return colour
    share, total = (F.avg_pool2d(part, 2, ceil_mode=True) for part in (weight, colour * weight))
    coarse = bleed(total / share.clamp(min=1e-9), share)
    fine = F.interpolate(coarse[None], scale_factor=2, mode="bilinear")[0, :, : colour.shape[1], : colour.shape[2]]
    return torch.where(weight > 0, colour, fine)


def lanczos(planes: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Resize planes (C, H, W) in [0, 1] with Pillow's Lanczos filter, in float32."""
    if planes.shape[1:] == (height, width):
        return planes
    images = (Image.fromarray(plane) for plane in planes.contiguous().numpy())
    resized = [np.array(image.resize((width, height), Image.Resampling.LANCZOS)) for image in images]
    return torch.from_numpy(np.stack(resized)).clamp_(0, 1)


def tile_size(width: int, outputs: int, window_size: int, memory) -> int:
    """Side of the largest tile that free memory allows, for features of a width and output values an LQ pixel."""
    most = LARGEST_TILE
    if memory is not None:
        per_pixel = 4 * (FLOATS_PER_CHANNEL * width + FLOATS_PER_OUTPUT * outputs)
        most = min(most, max(SMALLEST_TILE, math.isqrt(int(memory.free * SHARE / per_pixel))))
    return max(1, most // window_size) * window_size


def bf16_is_fast(device: torch.device) -> bool:
    """True if a device computes in bfloat16 by itself; of a CPU, Linux says it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    with contextlib.suppress(OSError):
        return bool(BF16_FLAGS & set(Path("/proc/cpuinfo").read_text().split()))
    return False
