"""Charts as PNG, for papers."""

import io

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MultipleLocator

from contrast_arch.experiments.charts import Chart

# Found by search for the largest distance (OKLab) between any two under normal, protan, deutan and tritan vision, each
# at a contrast of at least 3 to the page; light and dark have the same hues in the same order.
LIGHT = ("#1862d2", "#bb8234", "#11a1b0", "#c21867", "#57188a", "#6d2010", "#885a97", "#b468fa")
DARK = ("#a3b4fe", "#fdc574", "#9ff3ec", "#f9839d", "#8661e8", "#a37456", "#c548ab", "#c977fb")
MARKERS = "os^DvPX*"
DASHES = ("-", "--", ":", "-.")
WIDTH, HEIGHT = 7.9, 3.3  # of a panel, in inches
STYLE = {"font.size": 9, "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
MARKS = 6  # on the axis of images, at most about


def png(chart: Chart) -> bytes:
    """Draw a chart on white, its legend below."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(chart.panels)), layout="constrained")
        for axes, panel in zip(figure.subplots(len(chart.panels), squeeze=False)[:, 0], chart.panels, strict=True):
            _draw(axes, panel, chart)
        legends = [axes.get_legend_handles_labels() for axes in figure.axes]
        handles = {label: handle for legend in legends for handle, label in zip(*legend, strict=True)}
        columns = max(1, int(90 / (max(map(len, handles)) + 8)))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes, panel, chart):
    axis, label = next(iter(chart.axes.items()))
    for curve in panel.curves:
        color = LIGHT[curve.slot % len(LIGHT)]
        style = {"color": color, "marker": MARKERS[curve.slot % len(MARKERS)], "markersize": 5}
        style["linestyle"] = DASHES[curve.slot // len(LIGHT) % len(DASHES)]
        if chart.scatter and curve.low:
            below, above = curve.y[0] - curve.low[0], curve.high[0] - curve.y[0]
            axes.errorbar(curve.x[axis], curve.y, [[below], [above]], label=curve.label, capsize=3, **style)
            continue
        axes.plot(curve.x[axis], curve.y, label=curve.label, **style)
        if curve.low:
            axes.fill_between(curve.x[axis], curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel=label, title=panel.y_label, yscale="log" if panel.log else "linear")
    axes.title.set_fontsize("medium")
    axes.grid(alpha=0.3)
    low, high = axes.get_xlim()
    if chart.step:
        axes.xaxis.set_major_locator(MultipleLocator(chart.step * max(1, round((high - low) / chart.step / MARKS))))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
