"""``contrast-arch receptive-field``: the pixels of an image that networks make use of.

Effective receptive field: gradient of the centre pixel of the output with respect to the input, without its sign,
averaged over images. Source: Luo et al., Understanding the effective receptive field in deep convolutional neural
networks, NeurIPS 2016.

LAM: attribution of the edges in a small window of the output to the pixels of the input, by gradients integrated along
a path from a blurred image to the image. Source: Gu and Dong, Interpreting super-resolution networks with local
attribution maps, CVPR 2021; sigma, steps and window as there.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch.nn import functional
from tqdm import tqdm

from contrast_arch import load_pretrained
from contrast_arch.errors import InputError
from contrast_arch.experiments.markdown import save, table
from contrast_arch.files import replacing
from contrast_arch.inference.images import open_image

# An odd number of windows of 16: the centre pixel lies in the middle of a window, not at its border.
SIDE = 112
# Crops along each axis, for the average of the field; share of the gradient in the area that is reported.
CROPS, HELD = 3, 0.95
# LAM's: blur of the path's start in pixels, steps of the path, and side of the window in SR pixels.
SIGMA, STEPS, WINDOW = 1.2, 50, 16
HEADER = ["weights", "network", "pixels with 95 % of the gradient", "of the crop", "diffusion index"]


def effective_field(network: Callable, crops: torch.Tensor) -> torch.Tensor:
    """Effective receptive field (H, W), float64, sum 1, of the output's centre pixel; crops are LQ, (N, C, H, W)."""
    total = torch.zeros(crops.shape[2:], dtype=torch.float64)
    for crop in crops.split(1):
        lq = crop.clone().requires_grad_()
        sr = network(lq)
        centre = sr[..., sr.shape[2] // 2, sr.shape[3] // 2].sum()
        total += torch.autograd.grad(centre, lq)[0][0].double().abs().sum(0).cpu()
    return total / total.sum()


def held_area(field: torch.Tensor, share: float = HELD) -> int:
    """Smallest number of pixels that hold a share of a field of sum 1."""
    # A sum that reaches the share but for rounding has reached it.
    return int((field.flatten().sort(descending=True).values.cumsum(0) < share - 1e-9).sum()) + 1


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur (B, C, H, W) by a Gaussian of 9x9 pixels; a sigma of 0 leaves the image."""
    if sigma <= 0:
        return image
    line = torch.exp(-0.5 * (torch.arange(-4.0, 5.0, device=image.device) / sigma) ** 2)
    kernel = (line[:, None] * line / line.sum() ** 2).expand(image.shape[1], 1, -1, -1)
    return functional.conv2d(functional.pad(image, (4, 4, 4, 4), "replicate"), kernel, groups=image.shape[1])


def edges(sr: torch.Tensor, top: int, left: int, window: int = WINDOW) -> torch.Tensor:
    """Sum of the lengths of an image's gradients in a window; the gradient detector of LAM."""
    part = sr[..., top : top + window + 1, left : left + window + 1]
    dy, dx = part.diff(dim=-2)[..., :-1], part.diff(dim=-1)[..., :-1, :]
    # The root of 0 has no gradient.
    return (dy**2 + dx**2 + 1e-12).sqrt().sum()


def attribution(
    network: Callable, lq: torch.Tensor, detector: Callable, steps: int = STEPS, sigma: float = SIGMA
) -> torch.Tensor:
    """Local attribution map (C, H, W), float64 with sign, of the scalar that a detector finds in a network's output.

    Its sum tends, for many steps, to what the detector finds for ``lq`` (1, C, H, W) less that for the blurred image.
    """
    total = torch.zeros(lq.shape[1:], dtype=torch.float64)
    for step in range(steps):
        before, middle, after = (blurred(lq, sigma * (1 - (step + part) / steps)) for part in (0, 0.5, 1))
        middle = middle.clone().requires_grad_()
        gradient = torch.autograd.grad(detector(network(middle)), middle)[0]
        total += (gradient * (after - before))[0].double().cpu()
    return total


def diffusion_index(attributed: torch.Tensor) -> float:
    """Diffusion index of a map (C, H, W), 100 (1 - Gini): 100 for equal shares, near 0 if one pixel has all."""
    ordered = attributed.abs().sum(0).flatten().double().sort().values
    count = len(ordered)
    ranks = torch.arange(1, count + 1, dtype=torch.float64)
    return 100 * (1 - float(2 * (ranks * ordered).sum() / (count * ordered.sum()) - (count + 1) / count))


def crops_of(image: torch.Tensor, side: int) -> torch.Tensor:
    """Cut (1, C, H, W) into CROPS x CROPS crops, (N, C, side, side), evenly spread, overlapping if need be."""
    tops, lefts = (torch.linspace(0, length - side, CROPS).round().int().tolist() for length in image.shape[2:])
    places = sorted({(top, left) for top in tops for left in lefts})
    return torch.cat([image[..., top : top + side, left : left + side] for top, left in places])


def run(image: str, weights: list[str], output: Path, at: tuple[int, int] | None = None) -> dict:
    """Write OUTPUT/receptive_field.json, .md and .png, and return the content of the first; the table is printed too.

    Args:
        image: file of an LQ image.
        weights: what ``load_pretrained`` takes, a row each.
        at: (x, y), the LQ pixel at the centre of LAM's window, not too near to the border; None is the image's centre.
    """
    try:
        pixels = np.array(open_image(Path(image).read_bytes()).convert("RGB"))
    except InputError as error:
        raise InputError(f"{image}: {error}; expected an image file") from error
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    x, y = at or (whole.shape[3] // 2, whole.shape[2] // 2)
    side = min(SIDE, *whole.shape[2:])
    left, top = x - side // 2, y - side // 2
    lq = whole[..., max(0, top) : top + side, max(0, left) : left + side]
    if lq.shape[2:] != (side, side):
        raise InputError(f"{image}: expected {side}x{side} pixels around {x} {y} (--at)")
    networks = {source: load_pretrained(source).requires_grad_(False) for source in weights}
    crops, rows, maps = crops_of(whole, side), [], []
    with tqdm(total=len(networks) * (len(crops) + STEPS), unit="call") as bar:
        for name, network in networks.items():
            bar.set_description(name)
            network.register_forward_hook(lambda *_: bar.update() and None)
            corner = (network.upscale * side - WINDOW) // 2
            field = effective_field(network, crops)
            attributed = attribution(network, lq, partial(edges, top=corner, left=corner))
            maps.append((field, attributed.abs().sum(0)))
            row = {"weights": name, "network": type(network).__name__, "upscale": network.upscale}
            rows.append(row | {"area": held_area(field), "diffusion_index": diffusion_index(attributed)})
    found = {"image": Path(image).name, "side": side, "crops": len(crops), "top_left": [top, left], "rows": rows}
    save(output / "receptive_field", tables(found), found)
    _draw(lq[0], maps, rows, output / "receptive_field.png")
    print(tables(found))
    return found


def tables(found: dict) -> str:
    """Write the figures in Markdown."""
    rows = []
    for row in found["rows"]:
        share, index = f"{100 * row['area'] / found['side'] ** 2:.1f} %", f"{row['diffusion_index']:.2f}"
        rows.append([row["weights"], row["network"], f"{row['area']:,}", share, index])
    return "\n".join([*table(HEADER, rows), ""])


def _draw(lq, maps, rows, target):
    """Draw the crop and, of each network, the field and LAM on a logarithmic scale of five decades."""
    figure = Figure(figsize=(2.2 * (1 + len(maps)), 4.7), layout="constrained")
    axes = figure.subplots(2, 1 + len(maps))
    side, window = lq.shape[-1], WINDOW / rows[0]["upscale"]
    for axis, title in zip(axes[:, 0], ("effective field of the centre", "LAM of the square"), strict=True):
        axis.imshow(lq.permute(1, 2, 0).numpy())
        axis.set(ylabel=title, xticks=[], yticks=[])
    axes[1, 0].add_patch(Rectangle([(side - window) / 2 - 0.5] * 2, window, window, fill=False, edgecolor="red"))
    for column, row, shown in zip(axes.T[1:], rows, maps, strict=True):
        labels = f"{row['area']:,} pixels hold {HELD:.0%}", f"diffusion index {row['diffusion_index']:.2f}"
        for axis, values, label in zip(column, shown, labels, strict=True):
            axis.imshow((values / values.max()).clamp(min=1e-5).numpy(), norm=LogNorm(1e-5, 1), cmap="inferno")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(label, fontsize=8)
        # Of a path the name: a column has no room for more.
        column[0].set_title(f"{row['network']}\n{Path(row['weights']).stem}", fontsize=7)
    with replacing(target) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
