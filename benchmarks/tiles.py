"""Accuracy lost to tiles: networks with the shipped weights, X4, tiled against the whole image.

    python benchmarks/tiles.py --images Set14/HR [--tiles 64/32] [--output benchmarks/results] [--name tiles]

LQ images are made from the HR images of a folder as ``contrast-arch prepare`` makes them. A network is measured only
after its check: in one tile that covers the first image it gives, bit for bit, what it gives without tiles. Differences
are those of outputs clipped to [0, 1], in grey levels of 0 ... 255, not rounded, over the images that a size cuts at
all. Results are written after each network, as NAME.json and NAME.md.
"""

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from common import measured, parser_of, read_pairs, set_name
from tqdm import tqdm

from contrast_arch import load_pretrained
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import save, table
from contrast_arch.inference.tiler import Tiler, tile_spans
from contrast_arch.prepare.images import to_uint8
from contrast_arch.weights import pretrained_names

SCALE = 4
TILES = ("32/0", "32/16", "48/16", "64/0", "64/16", "64/32", "96/32", "128/32")
# SR pixels on each side of a tile's border that count as near it.
NEAR = 4


def as_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3), uint8 -> (1, 3, H, W) in [0, 1]."""
    return (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255).contiguous()


def psnr(sr: torch.Tensor, gt: np.ndarray) -> float:
    """PSNR of a network's output (1, 3, H, W), clipped to [0, 1], see :func:`common.measured`."""
    return measured("psnr", to_uint8(sr[0].permute(1, 2, 0).numpy()), gt, SCALE)


def borders(length: int, tiler: Tiler) -> list[int]:
    """SR pixels of an axis, of ``length`` LQ pixels, before which a tile starts or ends."""
    spans = tile_spans(length, tiler.size, tiler.overlap, tiler.window_size)
    return sorted({SCALE * edge for span in spans for edge in span if 0 < edge < length})


class Difference:
    """Sums of tiled minus whole over the images that were cut."""

    def __init__(self):
        self.images, self.largest, self.psnr_changes = 0, 0.0, []
        self.sums = defaultdict(float)
        self.counts = defaultdict(int)

    def add(self, whole, tiled, lines, psnr_change):
        """One image, (1, 3, H, W) in [0, 1]; ``lines``: the borders of rows and of columns."""
        self.images += 1
        self.psnr_changes.append(psnr_change)
        difference = 255 * (tiled - whole)[0].double()
        size = difference.abs()
        self.largest = max(self.largest, float(size.max()))
        near = torch.zeros(difference.shape[1:], dtype=torch.bool)
        for axis, edges in enumerate(lines):
            step = difference.diff(dim=axis + 1).abs()
            at = torch.zeros(step.shape[axis + 1], dtype=torch.bool)
            at[[edge - 1 for edge in edges]] = True
            self._split("step", step.movedim(axis + 1, -1), at)
            for edge in edges:
                near.narrow(axis, edge - NEAR, 2 * NEAR).fill_(True)
        self._split("error", size, near)

    def _split(self, name, values, mask):
        for kind, chosen in (("border", values[..., mask]), ("elsewhere", values[..., ~mask])):
            self.sums[name, kind] += float(chosen.sum())
            self.counts[name, kind] += chosen.numel()

    def found(self) -> dict:
        means = {f"{name}_{kind}": total / self.counts[name, kind] for (name, kind), total in self.sums.items()}
        errors = [self.sums["error", kind] for kind in ("border", "elsewhere")]
        pixels = [self.counts["error", kind] for kind in ("border", "elsewhere")]
        return {
            "images": self.images,
            "largest": self.largest,
            "mean": sum(errors) / sum(pixels),
            "psnr_change": sum(self.psnr_changes) / self.images,
            "psnr_worst": min(self.psnr_changes),
            **means,
        }


def measure(name: str, pairs: dict, tiles, bar) -> dict:
    """PSNR of a network without tiles, and what each kind of tile changes; None for one that cuts no image."""
    network = load_pretrained(name)
    differences = {kind: Difference() for kind in tiles}
    values = []
    for i, (hr, lq) in enumerate(pairs.values()):
        lq = as_tensor(lq)
        with torch.no_grad():
            output = network(lq)
        side = -(-max(lq.shape[2:]) // network.window_size) * network.window_size
        if i == 0 and not torch.equal(Tiler(side, window_size=network.window_size)(network, lq), output):
            raise SystemExit(f"{name}: a tile of {side} covers the first image and does not give what the network does")
        whole = output.clamp(0, 1)
        values.append(psnr(whole, hr))
        for kind in tiles:
            tiler = Tiler(*map(int, kind.split("/")), window_size=network.window_size)
            lines = [borders(length, tiler) for length in lq.shape[2:]]
            if any(lines):
                tiled = tiler(network, lq).clamp(0, 1)
                differences[kind].add(whole, tiled, lines, psnr(tiled, hr) - values[-1])
        bar.update()
    found = {kind: difference.found() if difference.images else None for kind, difference in differences.items()}
    return {"psnr": sum(values) / len(values), "tiles": found}


def tables(found: dict) -> str:
    """Write the figures so far in Markdown."""
    here = found["machine"]
    lines = [
        f"{found['images']} images of {found['folder']}, X{SCALE}; {here['cpu']}, torch {here['torch']}, Python "
        f"{here['python']}.",
        "",
        "Tiles are size/overlap in LQ pixels. Differences to the output without tiles are in grey levels of 0 ... 255, "
        f"over the images that are cut; near is within {NEAR} SR pixels of a tile's border. A step is how much the "
        "difference changes from one pixel to the next, at a tile's border and elsewhere. PSNR is on Y, in dB: without "
        "tiles over all images, the change over those that are cut, its mean and the worst image's.",
        "",
    ]
    rows = []
    for name, network in found["networks"].items():
        for kind, values in network["tiles"].items():
            if values is None:
                rows.append([name, kind, "0", *["-"] * 7, f"{network['psnr']:.3f}", "-", "-"])
                continue
            cells = [name, kind, str(values["images"]), f"{values['largest']:.1f}", f"{values['mean']:.3f}"]
            cells += [f"{values[key]:.3f}" for key in ("error_border", "error_elsewhere")]
            cells.append(f"{values['error_border'] / values['error_elsewhere']:.2f}")
            cells += [f"{values[key]:.3f}" for key in ("step_border", "step_elsewhere")]
            cells += [f"{network['psnr']:.3f}", f"{values['psnr_change']:+.4f}", f"{values['psnr_worst']:+.4f}"]
            rows.append(cells)
    header = ["network", "tiles", "images cut", "largest", "mean", "near", "not near", "ratio"]
    header += ["step at borders", "step elsewhere", "PSNR", "change", "worst"]
    return "\n".join([*lines, *table(header, rows)]) + "\n"


def main() -> None:
    parser = parser_of(__doc__, "tiles")
    parser.add_argument("--images", type=Path, required=True, help="folder of HR images")
    names = [name for name in pretrained_names() if name.endswith(f"x{SCALE}")]
    parser.add_argument("--networks", nargs="+", choices=names, default=names)
    parser.add_argument("--tiles", nargs="+", default=TILES, metavar="SIZE/OVERLAP")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pairs = read_pairs(args.images, SCALE)
    found = {
        "machine": machine(args.threads),
        "folder": set_name(args.images),
        "images": len(pairs),
        "networks": {},
    }
    with tqdm(total=len(pairs) * len(args.networks), unit="image") as bar:
        for name in args.networks:
            bar.set_description(name)
            found["networks"][name] = measure(name, pairs, args.tiles, bar)
            save(args.output / args.name, tables(found), found)
    print(tables(found))


if __name__ == "__main__":
    main()
