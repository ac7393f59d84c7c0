"""The figure of a benchmark: time of a training step and memory of each network, at the largest batch."""

from pathlib import Path

import matplotlib

from contrast_arch.experiments.bench.results import summary
from contrast_arch.files import replacing

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(found: dict, path: Path) -> bool:
    """Draw bars over ``found["base"]``, or as measured where that was not measured.

    Returns:
        True if there was anything to draw.
    """
    batch, base = max(found["seconds"], key=int), found["base"]
    rows = summary(found, batch)
    panels = {}
    for what, ratios, absolute, unit in (
        ("training step", "step_over", "step_s", "s"),
        ("peak of a step", "peak_over", "peak_mib", "MiB"),
    ):
        for key, label in ((ratios, f"{what} over {base}"), (absolute, f"{what}, {unit}")):
            values = [row[key] for row in rows]
            if any(value is not None for value in values):
                panels[label] = values
                break
    if not panels:
        return False
    size = 2 + 4.5 * len(panels), 1.5 + 0.42 * len(rows)
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False, sharey=True)
    names = [row["name"] for row in rows]
    for axis, (label, values) in zip(axes[0], panels.items(), strict=True):
        bars = axis.barh(names, [value or 0 for value in values], color=["C1" if n == base else "C0" for n in names])
        axis.bar_label(bars, ["not measured" if value is None else f"{value:,.3g}" for value in values], padding=4)
        axis.set_title(label, fontsize="medium")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    setting, here = found["setting"], found["machine"]
    where = here["cpu"] if setting["device"] == "cpu" else here["gpu"]
    title = f"X{setting['scale']}, batch {batch}, {found['size']}x{found['size']} LQ, on {where}"
    figure.suptitle(title, fontsize="medium")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    return True
