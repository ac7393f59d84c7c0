"""The command line, the LQ/GT pairs and the metrics that the scripts beside this file share."""

import argparse
from pathlib import Path

import numpy as np

from contrast_arch.prepare.images import SUFFIXES, bicubic, read_rgb

RESULTS = Path(__file__).parent / "results"


def parser_of(doc: str, name: str) -> argparse.ArgumentParser:
    """Make the parser of a script, with the place of its results.

    Args:
        doc: its docstring.
        name: of the result files.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--name", default=name, help="of the result files")
    return parser


def set_name(folder: Path) -> str:
    """Name of the data set, not where it lies."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "HR" else folder.name


def read_pairs(folder: Path, scale: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read GT images, and make their LQ as ``contrast-arch prepare`` does: name -> (GT, LQ), (H, W, 3), uint8, RGB."""
    from basicsr.data.transforms import mod_crop

    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder}: no images; expected a folder of GT images ({', '.join(SUFFIXES)})")
    gts = {path.name: mod_crop(read_rgb(path), scale) for path in paths}
    return {name: (gt, bicubic(gt, 1 / scale)) for name, gt in gts.items()}


def measured(metric: str, sr: np.ndarray, gt: np.ndarray, scale: int) -> float:
    """PSNR ("psnr") or SSIM ("ssim") of uint8 images in RGB as BasicSR's validation computes it: on Y, without
    ``scale`` pixels at each border."""
    from basicsr import metrics

    images = sr[:, :, ::-1], gt[:, :, ::-1]
    return float(getattr(metrics, f"calculate_{metric}")(*images, crop_border=scale, test_y_channel=True))
