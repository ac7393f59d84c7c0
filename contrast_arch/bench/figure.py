"""The figure of a benchmark: iteration time and memory of each network."""

from pathlib import Path

import matplotlib

from contrast_arch.files import replacing

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(found: dict, title: str, path: Path) -> bool:
    """Bars of iteration time and peak memory, over the first of ``found["bases"]`` or as measured where there is none.

    Returns:
        Whether there was anything to draw.
    """
    base = next(iter(found["bases"]), None)
    rows, panels = found["summary"], {}
    for label, key, absolute, unit in (
        ("iteration time", "iteration_over", "iteration_s", "s"),
        ("peak memory of an iteration", "peak_over", "peak_mib", "MiB"),
    ):
        values = [row[absolute] if base is None else row[key].get(base) for row in rows]
        if any(value is not None for value in values):
            panels[f"{label}, {unit}" if base is None else f"{label} over {base}"] = values
    if not panels:
        return False
    size = 2 + 4.5 * len(panels), 1.5 + 0.42 * len(rows)
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False, sharey=True)
    names = [row["name"] for row in rows]
    for axis, (label, values) in zip(axes[0], panels.items(), strict=True):
        bars = axis.barh(names, [value or 0 for value in values], color=["C1" if n == base else "C0" for n in names])
        form = "{:,.3g}" if base is None else "{:.2f}"
        texts = ["not measured" if value is None else form.format(value) for value in values]
        if base is not None:
            axis.axvline(1, color="C1", linewidth=1, linestyle="--")
        axis.bar_label(bars, texts, padding=4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        axis.set_title(label, fontsize="medium")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    figure.suptitle(title, fontsize="medium")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    return True
