"""Large images in tiles that overlap and are blended: what does not fit into memory at once."""

import itertools
import logging
import math

import torch
from torch import nn
from tqdm import tqdm

from contrast_arch.errors import one_line

log = logging.getLogger(__name__)

# Share of an overlap over which one tile passes into the next: 3 to 4 dB nearer to the whole image than all of it.
RAMP = 0.25
# Texts of allocators' errors: CPU (Linux, Windows), CUDA and MPS.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def tile_spans(length: int, size: int, overlap: int, window_size: int) -> list[tuple[int, int]]:
    """Starts and ends of the tiles of an axis; arguments as those of :class:`Tiler`.

    All start at whole windows, so that their windows are those of the image. The last one starts as near to the end as
    that allows: it is more than ``size - window_size`` long.
    """
    if length <= size:
        return [(0, length)]
    last = -(-(length - size) // window_size) * window_size
    return [(start, min(start + size, length)) for start in (*range(0, last, size - overlap), last)]


def blend_weights(spans: list[tuple[int, int]], scale: int) -> list[torch.Tensor]:
    """The share of each tile of an axis in each of its pixels, float32; the shares in a pixel add up to 1.

    Over the middle of what a tile has in common with its neighbour its share rises or falls as a raised cosine; nearer
    to its own border, where it lacks its surroundings, it has none. ``scale`` is output pixels a pixel of ``spans``.
    """
    places = [slice(start * scale, stop * scale) for start, stop in spans]
    shares = [torch.ones(place.stop - place.start, dtype=torch.float64) for place in places]
    for i in range(1, len(spans)):
        shared = places[i - 1].stop - places[i].start
        if shared:
            at = (torch.arange(shared, dtype=torch.float64) + 0.5) / shared - 0.5
            ramp = torch.sin((at / RAMP + 0.5).clamp(0, 1) * (math.pi / 2)) ** 2
            shares[i][:shared] *= ramp
            shares[i - 1][-shared:] *= ramp.flip(0)
    # More than two tiles meet where the last one had to move back.
    total = torch.zeros(places[-1].stop, dtype=torch.float64)
    for place, share in zip(places, shares, strict=True):
        total[place] += share
    return [(share / total[place]).float() for place, share in zip(places, shares, strict=True)]


class Tiler:
    """Runs a network on an image tile by tile: ``Tiler(128, window_size=network.window_size)(network, lq)``.

    An image that one tile covers goes through the network as it is. What a network takes from the whole image (a scan,
    channel attention) it takes from the tile here: with several the result is near to the whole image's, not equal.

    Args:
        size: side of the tiles in LQ pixels, a multiple of ``window_size``. It and ``overlap`` become smaller after a
            tile did not fit into memory.
        overlap: LQ pixels that neighbouring tiles have in common, a multiple of ``window_size``, at most half of
            ``size``. None takes two windows, or what half of ``size`` has room for.
        window_size: the network's, 1 for networks without windows.
        progress: show a bar over an image's tiles, on a terminal.

    Raises:
        ValueError: a size or an overlap that does not fit; the message says what does.
    """

    def __init__(self, size: int, overlap: int | None = None, *, window_size: int, progress: bool = False):
        if size < window_size or size % window_size:
            near = max(1, round(size / window_size)) * window_size
            raise ValueError(f"tile size={size!r}: expected a multiple of window_size={window_size}, such as {near}")
        most = size // 2 // window_size * window_size
        if overlap is None:
            overlap = min(2 * window_size, most)
        if not 0 <= overlap <= most or overlap % window_size:
            raise ValueError(
                f"tile overlap={overlap!r}: expected a multiple of window_size={window_size} from 0 to {most}, "
                f"what half of size={size} has room for"
            )
        self.size, self.overlap = size, overlap
        self.window_size, self.progress = window_size, progress

    def __call__(self, network: nn.Module, lq: torch.Tensor) -> torch.Tensor:
        """Upscale images (B, C, H, W) to (B, C', s * H, s * W), float32, on the CPU, without gradient.

        Tiles are moved one at a time to the device of the network's parameters. If one does not fit into memory, the
        log says so, and this image and the next ones get tiles of half the side, rounded up to whole windows.

        Raises:
            ValueError: ``lq`` is of another shape.
            RuntimeError: of the network, out of memory only for a tile of one window; or its output has no whole scale.
        """
        if lq.dim() != 4 or 0 in lq.shape:
            raise ValueError(f"images of shape {tuple(lq.shape)}: expected (B, C, H, W), none of them 0")
        while True:
            try:
                return self._upscale(network, lq)
            except (RuntimeError, MemoryError) as error:
                side, window = min(self.size, max(lq.shape[2:])), self.window_size
                is_memory = isinstance(error, MemoryError) or any(text in str(error).lower() for text in OUT_OF_MEMORY)
                if not is_memory or side <= window:
                    raise
                # Half of the windows, rounded up.
                self.size = -(-side // (2 * window)) * window
                self.overlap = min(self.overlap, self.size // 2 // window * window)
                log.warning(
                    f"Out of memory on a tile of {side} LQ pixels a side: tiles from here on are of size {self.size}, "
                    f"overlap {self.overlap}. {one_line(error)}"
                )
            # Not where the error is handled: its traceback holds on to what the network had computed.
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _upscale(self, network, lq):
        device = next(network.parameters(), lq).device
        rows, columns = (tile_spans(side, self.size, self.overlap, self.window_size) for side in lq.shape[2:])
        if len(rows) == len(columns) == 1:
            return network(lq.to(device)).cpu().float()
        grid, sr = list(itertools.product(enumerate(rows), enumerate(columns))), None
        # None: on a terminal only.
        bar = tqdm(grid, desc="tiles", unit="tile", leave=False, disable=None if self.progress else True)
        for (row, (top, bottom)), (column, (left, right)) in bar:
            tile = network(lq[:, :, top:bottom, left:right].to(device)).cpu().float()
            if sr is None:
                scale = tile.shape[2] // (bottom - top)
                sr = tile.new_zeros(*tile.shape[:2], lq.shape[2] * scale, lq.shape[3] * scale)
                heights, widths = blend_weights(rows, scale), blend_weights(columns, scale)
            place = sr[:, :, top * scale : bottom * scale, left * scale : right * scale]
            place.addcmul_(tile, heights[row][:, None] * widths[column])
        return sr
