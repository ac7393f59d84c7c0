"""PSNR and SSIM of bicubic enlargement, the lower bound of the tables of weights.

    python benchmarks/bicubic.py [--datasets datasets] [--sets Set5 Set14 BSD20] [--scales 2 3 4]

The pairs are those of benchmarks/weights.py, enlarged by Pillow, measured as BasicSR's validation does: on Y, without
``scale`` pixels at each border.
"""

import statistics
from pathlib import Path

import cv2
import numpy as np
from common import parser_of
from PIL import Image

from contrast_arch import compat
from contrast_arch.experiments.markdown import save, table


def measure(dataset: Path, scale: int) -> tuple[float, float]:
    """Mean PSNR and SSIM over the pairs of a dataset of ``contrast-arch prepare``."""
    compat.require_basicsr()
    from basicsr.metrics import calculate_psnr, calculate_ssim

    found = []
    for path in sorted((dataset / "HR").iterdir()):
        lq = cv2.imread(str(dataset / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png"))
        size = lq.shape[1] * scale, lq.shape[0] * scale
        # An image in BGR is enlarged like one in RGB.
        sr = Image.fromarray(lq).resize(size, Image.Resampling.BICUBIC)
        gt = cv2.imread(str(path))[: size[1], : size[0]]
        settings = {"img": np.asarray(sr), "img2": gt, "crop_border": scale, "test_y_channel": True}
        found.append((calculate_psnr(**settings), calculate_ssim(**settings)))
    return tuple(map(statistics.fmean, zip(*found, strict=True)))


def main() -> None:
    parser = parser_of(__doc__, "bicubic")
    parser.add_argument("--datasets", type=Path, default=Path("datasets"))
    parser.add_argument("--sets", nargs="+", default=["Set5", "Set14", "BSD20"])
    parser.add_argument("--scales", nargs="+", type=int, default=[2, 3, 4])
    args = parser.parse_args()
    found = {}
    for scale in args.scales:
        values = {name: measure(args.datasets / name, scale) for name in args.sets}
        found[f"X{scale}"] = {name: {"psnr": psnr, "ssim": ssim} for name, (psnr, ssim) in values.items()}
    rows = [
        [scale, *(f"{own[name]['psnr']:.2f} / {own[name]['ssim']:.4f}" for name in args.sets)]
        for scale, own in found.items()
    ]
    text = "\n".join(table(["scale", *args.sets], rows))
    save(args.output / args.name, f"{text}\n", found)
    print(text)


if __name__ == "__main__":
    main()
