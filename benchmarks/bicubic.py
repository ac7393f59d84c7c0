"""PSNR and SSIM of bicubic enlargement, the lower bound of the tables of weights.

    python benchmarks/bicubic.py --hr Set5/HR Set14/HR BSD20/HR [--scales 2 3 4]

Images are enlarged by Pillow. BSD20 are the photographs that benchmarks/comparison.py leaves out of training.
"""

import statistics
from pathlib import Path

import numpy as np
from common import measured, parser_of, read_pairs, set_name
from PIL import Image

from contrast_arch.experiments.markdown import save, table


def measure(folder: Path, scale: int) -> dict[str, float]:
    """Mean PSNR and SSIM over a folder of GT images."""
    found = {"psnr": [], "ssim": []}
    for gt, lq in read_pairs(folder, scale).values():
        sr = np.asarray(Image.fromarray(lq).resize(gt.shape[1::-1], Image.Resampling.BICUBIC))
        for metric, values in found.items():
            values.append(measured(metric, sr, gt, scale))
    return {metric: statistics.fmean(values) for metric, values in found.items()}


def main() -> None:
    parser = parser_of(__doc__, "bicubic")
    parser.add_argument("--hr", type=Path, nargs="+", required=True, help="folders of GT images")
    parser.add_argument("--scales", nargs="+", type=int, default=[2, 3, 4])
    args = parser.parse_args()
    found = {f"X{scale}": {set_name(folder): measure(folder, scale) for folder in args.hr} for scale in args.scales}
    rows = [
        [scale, *(f"{values['psnr']:.2f} / {values['ssim']:.4f}" for values in sets.values())]
        for scale, sets in found.items()
    ]
    text = "\n".join(table(["scale", *found[f"X{args.scales[0]}"]], rows))
    save(args.output / args.name, f"{text}\n", found)
    print(text)


if __name__ == "__main__":
    main()
