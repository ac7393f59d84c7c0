"""Draw position_index.png: the offsets that a computed position bias is computed from, for one query pixel.

python docs/position_index.py
"""

from pathlib import Path

import matplotlib
import torch

from contrast_arch.layers.windows import relative_position_index

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WINDOW, KEYS = 8, 12
QUERY = 4, 4
TITLES = {True: "aligned_bias: true", False: "aligned_bias: false, as published"}


def distances(aligned: bool) -> torch.Tensor:
    """Length of the offset that is read for the query and each pixel of its key window, in pixels: (KEYS, KEYS)."""
    side = WINDOW + KEYS - 1
    index = relative_position_index(WINDOW, KEYS, aligned)[QUERY[0] * WINDOW + QUERY[1]] % side**2
    offsets = torch.stack([index // side, index % side]) - side // 2
    return offsets.float().norm(dim=0).view(KEYS, KEYS)


def draw(path: Path):
    """Write the picture to a file."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), layout="constrained")
    margin = (KEYS - WINDOW) // 2
    for axis, (aligned, title) in zip(axes, TITLES.items(), strict=True):
        image = axis.imshow(distances(aligned).numpy(), vmin=0, vmax=13, cmap="viridis")
        axis.add_patch(plt.Rectangle((margin - 0.5,) * 2, WINDOW, WINDOW, fill=False, edgecolor="white", linewidth=1.5))
        axis.plot(margin + QUERY[1], margin + QUERY[0], "o", color="red")
        axis.set(title=title, xticks=[], yticks=[])
    figure.colorbar(image, ax=axes, label="distance read for the bias, pixels")
    figure.savefig(path, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
