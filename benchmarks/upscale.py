"""``contrast-arch upscale`` on this machine's CPU: time, memory, and what tiles and bf16 cost in accuracy.

    python benchmarks/upscale.py --hr Set5/HR Set14/HR [--photographs FOLDER] [--output benchmarks/results]
    python benchmarks/upscale.py --hr tests/data/Set5/HR --parts picture   # docs/upscaled.png

Time and peak memory are those of :class:`~contrast_arch.inference.upscale.Upscaler` on one image, with the default
weights and with SwinIR-light as spandrel has it, each in a process of its own, in turns. Accuracy is measured with the
default weights: PSNR on Y of bf16 and fp32 on the LQ of the HR folders, and PSNR of the tiled result to the whole one
(RGB, of outputs clipped to [0, 1]), on these LQ and on photographs as they are. The folder is one of 100 images of
128x128: what files cost beside the network. About 40 minutes; upscale.json and upscale.md are written part by part, and
parts and sides that are not measured anew (``--parts``, ``--sides``) stay.
``--quick`` goes through it with small images.
"""

import contextlib
import json
import os
import shutil
import statistics
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import measured, parser_of, read_pairs, set_name
from PIL import Image
from tiles import SCALE, as_tensor, psnr

from contrast_arch import Tiler, load_pretrained, upscale
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.bench.measure import alone, interleaved, peak_unsupported_reason, ratio
from contrast_arch.experiments.bench.networks import peer
from contrast_arch.experiments.markdown import save, table
from contrast_arch.inference import files
from contrast_arch.inference.upscale import Upscaler

NETWORKS = {"default": partial(load_pretrained, files.DEFAULT_MODEL), "SwinIR light": partial(peer, "SwinIR-light")}
TILE = 128
SIDES = (256, 512, 1024)
# Sides above it go through the network once a process, on all threads alone.
LARGE = 512
COUNT, SIDE = 100, 128
# Parts of Set5 that are shown: top, left, side.
DETAILS = {"butterfly.png": (20, 60, 160), "bird.png": (20, 80, 160)}
PARTS = ("folder", "tiles", "bf16", "times")


class Through(torch.nn.Module):
    """A network behind :class:`Upscaler`, as a module that :func:`alone` can measure."""

    def __init__(self, network: str, tile: int, dtype: str):
        super().__init__()
        self.inner = NETWORKS[network]()
        self.upscaler = Upscaler(self.inner, tile=tile, dtype=dtype)

    def forward(self, lq):
        return self.upscaler.values(lq[0])[None]


def measure_times(networks, sides, threads, rounds: int, rows: list, write) -> None:
    """Add seconds and MiB of each network, side, tile, dtype and number of threads; small images are repeated."""
    for side in sides:
        for count in threads:
            if side > LARGE and count != max(threads):
                continue
            torch.set_num_threads(count)
            ways = [
                {"network": network, "side": side, "threads": count, "tile": tile, "dtype": dtype}
                for dtype in ("fp32", "bf16")
                for tile in (0, TILE)
                for network in networks
            ]
            found = [[] for _ in ways]
            for _ in range(rounds if side <= 256 else 1):
                for way, runs in zip(ways, found, strict=True):
                    arguments = (way["network"], way["tile"], way["dtype"])
                    runs.append(alone(partial(Through, *arguments), "inference", 1, side))
            for way, runs in zip(ways, found, strict=True):
                way["seconds"] = statistics.median(run["seconds"] for run in runs)
                way["peak_mib"] = max(run["peak_mib"] for run in runs)
            rows += ways
            write(sorted(rows, key=lambda row: (row["side"], row["threads"])))


def measure_bf16(network, sets: dict) -> list:
    """Mean PSNR on Y of a network in fp32 and bf16, by set."""
    rows = []
    for name, pairs in sets.items():
        values = defaultdict(list)
        for hr, lq in pairs.values():
            image = as_tensor(lq)[0]
            for dtype in ("fp32", "bf16"):
                sr = Upscaler(network, tile=0, dtype=dtype).values(image)[None]
                values[dtype].append(psnr(sr, hr))
        rows.append({"set": name} | {dtype: statistics.mean(found) for dtype, found in values.items()})
    return rows


def measure_tiles(network, images: dict, sizes) -> list:
    """PSNR of tiled results to whole ones, at the default overlap: the lowest and the mean, by set and size."""
    rows = []
    for name, lqs in images.items():
        found = {size: [] for size in sizes}
        largest = dict.fromkeys(sizes, 0.0)
        for lq in lqs:
            with torch.no_grad():
                whole = network(lq).clamp(0, 1)
            for size in sizes:
                if max(lq.shape[2:]) > size:
                    tiled = Tiler(size, window_size=network.window_size)(network, lq).clamp(0, 1)
                    difference = (tiled - whole).double()
                    found[size].append(-10 * float(difference.square().mean().log10()))
                    largest[size] = max(largest[size], 255 * float(difference.abs().max()))
        rows += [
            {"set": name, "tile": size, "images": len(values), "lowest": min(values), "mean": statistics.mean(values)}
            | {"largest": largest[size]}
            for size, values in found.items()
            if values
        ]
    return rows


def measure_folder(network, photographs: list[np.ndarray], count: int, side: int, rounds: int) -> dict:
    """Seconds of a folder of images through :func:`files.run`, and of the same pixels through the network alone."""
    rng, upscaler = np.random.default_rng(0), Upscaler(network, dtype="fp32")
    with tempfile.TemporaryDirectory() as root:
        source, target = Path(root, "in"), Path(root, "out")
        source.mkdir()
        lqs = []
        for i in range(count):
            photograph = photographs[i % len(photographs)]
            top, left = (int(rng.integers(0, length - side + 1)) for length in photograph.shape[:2])
            crop = photograph[top : top + side, left : left + side]
            Image.fromarray(crop).save(source / f"{i:03}.png")
            lqs.append(as_tensor(crop))

        def alone():
            with torch.no_grad():
                for lq in lqs:
                    network(lq)

        def folder():
            shutil.rmtree(target, ignore_errors=True)
            jobs = files.plan([str(source)], str(target))
            with contextlib.redirect_stderr(None):
                failed = files.run(jobs, upscaler, quiet=True)
            if failed or len(list(target.iterdir())) != count:
                raise SystemExit(f"{failed} of {count} images failed")

        return interleaved({"network": alone, "folder": folder}, rounds) | {"count": count, "side": side}


def draw(network, pairs: dict, target: Path) -> None:
    """Bicubic, the network and HR of parts of images, side by side."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(DETAILS), 4, figsize=(12, 6.6), layout="constrained")
    for row, (name, (top, left, side)) in zip(axes, DETAILS.items(), strict=True):
        hr, lq = pairs[name]
        small = Image.fromarray(lq)
        size = hr.shape[1::-1]
        shown = {
            "LQ": np.asarray(small.resize(size, Image.Resampling.NEAREST)),
            "bicubic": np.asarray(small.resize(size, Image.Resampling.BICUBIC)),
            f"{type(network).__name__}, X4": np.asarray(upscale(small, network)),
            "HR": hr,
        }
        for axis, (label, image) in zip(row, shown.items(), strict=True):
            value = "" if label in ("LQ", "HR") else f"  {measured('psnr', image, hr, SCALE):.2f} dB"
            axis.set_title(label + value)
            axis.imshow(image[top : top + side, left : left + side], interpolation="nearest")
            axis.set_axis_off()
    figure.savefig(target, dpi=100)


def tables(found: dict) -> str:
    """Results so far, in Markdown."""
    here = found["machine"]
    lines = [
        f"{here['cpu']}, {here['threads']} cores, torch {here['torch']}, Python {here['python']}. Weights: "
        f"{found['weights']} (X4)."
    ]
    if found["times"]:
        lines += ["", "One image, each row in processes of its own; the peak is above the network at rest.", ""]
        rows = []
        for row in found["times"]:
            way = [row["network"], str(row["tile"] or "whole"), row["dtype"], str(row["threads"])]
            rows.append([f"{row['side']}x{row['side']}", *way, f"{row['seconds']:.1f}", f"{row['peak_mib']:.0f}"])
        lines += table(["LQ", "network", "tiles", "dtype", "threads", "s", "peak, MiB"], rows)
    if found["bf16"]:
        lines += ["", "bf16 (autocast) against fp32, PSNR on Y:", ""]
        rows = [
            [row["set"], f"{row['fp32']:.4f}", f"{row['bf16']:.4f}", f"{row['bf16'] - row['fp32']:+.4f}"]
            for row in found["bf16"]
        ]
        lines += table(["set", "fp32", "bf16", "difference"], rows)
    if found["tiles"]:
        figures = ("lowest", "mean", "largest")
        lines += ["", "PSNR (RGB) of the tiled result to the whole one, overlap of two windows (32), in dB:", ""]
        rows = [
            [*(str(row[key]) for key in ("set", "tile", "images")), *(f"{row[key]:.1f}" for key in figures)]
            for row in found["tiles"]
        ]
        lines += table(["images", "tile", "cut", "lowest", "mean", "largest difference of 255"], rows)
    if folder := found["folder"]:
        seconds = {key: statistics.median(folder[key]) for key in ("network", "folder")}
        over = ratio(folder["folder"], folder["network"])
        lines += [
            "",
            f"A folder of {folder['count']} images of {folder['side']}x{folder['side']}: {seconds['folder']:.1f} s, "
            f"the network alone {seconds['network']:.1f} s; ratio {over:.3f} (median of {len(folder['folder'])}).",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__, "upscale")
    parser.add_argument("--hr", type=Path, nargs="+", required=True, help="folders of HR images")
    parser.add_argument("--photographs", type=Path, help="folder of images that are LQ as they are")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--parts", nargs="+", choices=(*PARTS, "picture"), default=PARTS)
    parser.add_argument("--quick", action="store_true", help="small images, one round")
    args = parser.parse_args()
    if reason := peak_unsupported_reason():
        raise SystemExit(reason)
    cores = os.cpu_count()
    sides, threads, rounds, count, side = args.sides, (1, 2), args.rounds, COUNT, SIDE
    if args.quick:
        sides, threads, rounds, count, side = (32,), (cores,), 1, 3, 32
    torch.set_num_threads(cores)
    found = {"times": [], "bf16": [], "tiles": [], "folder": None}
    with contextlib.suppress(FileNotFoundError):
        found |= json.loads(((args.output / args.name).with_suffix(".json")).read_text())
    found |= {"machine": machine(cores), "weights": files.DEFAULT_MODEL}

    def write(part, value):
        found[part] = value
        save(args.output / args.name, tables(found), found)

    network = load_pretrained(files.DEFAULT_MODEL)
    sets = {set_name(folder): read_pairs(folder, SCALE) for folder in args.hr}
    if "picture" in args.parts:
        draw(network, next(iter(sets.values())), Path(__file__).parents[1] / "docs" / "upscaled.png")
    images = {name: [as_tensor(lq) for _, lq in pairs.values()] for name, pairs in sets.items()}
    if args.photographs:
        paths = sorted(args.photographs.iterdir())
        images[set_name(args.photographs)] = [as_tensor(np.array(Image.open(path).convert("RGB"))) for path in paths]
    if "folder" in args.parts:
        hrs = [hr for pairs in sets.values() for hr, _ in pairs.values()]
        write("folder", measure_folder(network, hrs, count, side, rounds))
    if "tiles" in args.parts:
        write("tiles", measure_tiles(network, images, (64, 128)))
    if "bf16" in args.parts:
        write("bf16", measure_bf16(network, sets))
    if "times" in args.parts:
        kept = [row for row in found["times"] if row["side"] not in sides]
        measure_times(args.networks, sides, threads, rounds, kept, partial(write, "times"))
    print(tables(found))


if __name__ == "__main__":
    main()
