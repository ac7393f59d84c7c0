"""Drawing of charts: SVG that takes its colours from the page, wide or narrow, and PNG."""

import io
import math
import re

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullFormatter

from contrast_arch.report.charts import Chart, Panel

# Found by search for the largest distance (OKLab) between any two under normal, protan, deutan and tritan vision, each
# at a contrast of at least 3 to the page; light and dark have the same hues in the same order.
LIGHT = ("#1862d2", "#bb8234", "#11a1b0", "#c21867", "#57188a", "#6d2010", "#885a97", "#b468fa")
DARK = ("#a3b4fe", "#fdc574", "#9ff3ec", "#f9839d", "#8661e8", "#a37456", "#c548ab", "#c977fb")
MARKERS = (("o", 5), ("s", 5), ("^", 5.5), ("D", 5), ("v", 5.5), ("P", 7), ("X", 7), ("*", 9))  # and sizes in points
DASHES = ("-", "--", ":", "-.")
INK, MUTED, GRID, PAGE = "#1b1f24", "#59636e", "#d5dae0", "#ffffff"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAGE: "page"} | {c: f"c{i}" for i, c in enumerate(LIGHT)}

# Sizes in CSS pixels; a figure is shown near its own size, so that its text is as large as the text around it.
WIDE, NARROW = 760, 330
FONT = 12
CHARACTER, LINE = 7.4, 17  # at most, of that font
LONGEST = 34  # characters of a label
# Where the name of a point may stand: alignment, and distance to the right and upwards, best first.
PLACES = [
    ("left", 10, 0),
    ("right", -10, 0),
    *((side, dx, dy) for dy in (14, -14) for side, dx in (("center", 0), ("left", 10), ("right", -10))),
]
STYLE = {
    "svg.fonttype": "none",
    "font.size": FONT * 0.75,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": FONT * 0.75,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.5,
}


def svg(chart: Chart, narrow: bool) -> str:
    """An ``<svg>`` element for inline use, whose colours are the page's CSS variables (``--ink``, ``--c0``, ...)."""
    with matplotlib.rc_context(STYLE):
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        _draw(chart, narrow).savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace("xlink:href", "href")
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    # Names have to be unlike those of every other figure of the page.
    prefix = f"{chart.name}-{'narrow' if narrow else 'wide'}-"
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", text)
    for color, name in VARIABLES.items():
        text = text.replace(color, f"var(--{name})")
    return text


def png(chart: Chart) -> bytes:
    """The wide figure on white."""
    with matplotlib.rc_context(STYLE):
        buffer = io.BytesIO()
        _draw(chart, narrow=False).savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def _draw(chart, narrow):
    heights = [240 if narrow else 320] * len(chart.panels)
    labels = {curve.slot: curve.label for panel in chart.panels for curve in panel.curves}
    legend = 18 * len(labels) + 14 if narrow else 0
    width = NARROW if narrow else WIDE
    # 96 CSS pixels are an inch, at which matplotlib's points are CSS points.
    figure = Figure(figsize=(width / 96, (sum(heights) + legend) / 96))
    longest = max(len(_end_label(panel, curve)) for panel in chart.panels for curve in panel.curves)
    left, right = (52, 14) if narrow or chart.scatter else (62, min(CHARACTER * longest + 30, WIDE // 2))
    top = 0
    for panel, height in zip(chart.panels, heights, strict=True):
        box = (left, top + 24, width - left - right, height - 24 - 46)
        axes = figure.add_axes(_fractions(box, figure))
        _draw_panel(axes, panel, chart, narrow)
        top += height
    if narrow:
        _draw_legend(figure, labels, legend, chart.scatter)
    return figure


def _fractions(box, figure):
    """(left, top, width, height) in CSS pixels from the upper left corner -> matplotlib's fractions."""
    left, top, width, height = box
    full_width, full_height = figure.get_size_inches() * 96
    return left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height


def _style(slot):
    marker, size = MARKERS[slot % len(MARKERS)]
    return {
        "color": LIGHT[slot % len(LIGHT)],
        "marker": marker,
        "markersize": size,
        "linestyle": DASHES[slot // len(LIGHT) % len(DASHES)],
        "markeredgecolor": PAGE,
        "markeredgewidth": 0.5,
    }


def _draw_panel(axes, panel: Panel, chart, narrow):
    for curve in panel.curves:
        style = _style(curve.slot)
        style["markersize"] *= 1.5 if chart.scatter else 1
        axes.plot(*zip(*curve.points, strict=True), **style)
    if panel.log:
        _set_log(axes)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.margins(x=0.06, y=0.08)
    axes.set_xlabel(chart.x_label)
    axes.set_title(" ".join(filter(None, (panel.title, panel.y_label))), loc="left")
    _set_x_marks(axes, chart.step, 4 if narrow else 7)
    if chart.scatter and not narrow:
        _label_points(axes, panel)
    elif not narrow:
        _label_ends(axes, panel)


def _set_log(axes):
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 2, 3, 4, 6, 8)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _set_x_marks(axes, step, most):
    """At checkpoints where they are the same for all experiments, at round numbers otherwise."""
    low, high = axes.get_xlim()
    if step:
        axes.xaxis.set_major_locator(MultipleLocator(step * math.ceil((high - low) / step / most)))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(most - 1))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _label_ends(axes, panel):
    """Name and last value of each curve at the right, in the order of the values, joined to the end of the curve."""
    _, height = _size(axes)
    ends = _ends(axes, panel)
    heights = spread([y for _, y in ends], LINE / height)
    for curve, (x, y), at in zip(panel.curves, ends, heights, strict=True):
        style = {**_style(curve.slot), "linestyle": "none"}
        leader = {"color": style["color"], "linewidth": 0.9, "linestyle": (0, (1, 2))}
        axes.plot([x, 1.005, 1.03], [y, at, at], transform=axes.transAxes, clip_on=False, **leader)
        axes.plot(1.04, at, transform=axes.transAxes, clip_on=False, **style)
        axes.text(1.055, at, _end_label(panel, curve), transform=axes.transAxes, va="center_baseline")


def _label_points(axes, panel):
    """Name and value beside each point, where they cover the fewest points and names."""
    width, height = _size(axes)
    points = [(x * width, y * height) for x, y in _ends(axes, panel)]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    for curve, (x, y) in zip(panel.curves, points, strict=True):
        text = _end_label(panel, curve)
        boxes = [_text_box(x + dx, y + dy, alignment, text) for alignment, dx, dy in PLACES]
        best = min(range(len(PLACES)), key=lambda i: _covered(boxes[i], taken, width, height))
        taken.append(boxes[best])
        alignment, dx, dy = PLACES[best]
        at = (x + dx) / width, (y + dy) / height
        axes.text(*at, text, transform=axes.transAxes, ha=alignment, va="center_baseline")


def _end_label(panel, curve):
    return f"{panel.value(curve.points[-1][1])}  {_shortened(curve.label)}"


def _shortened(label):
    """Without what lies in the middle of a label that has no room."""
    half = LONGEST // 2
    return label if len(label) <= LONGEST else f"{label[: half - 1]}…{label[-half:]}"


def _size(axes):
    """Width and height in CSS pixels."""
    return axes.get_position().size * axes.figure.get_size_inches() * 96


def _ends(axes, panel):
    """The last point of each curve, in fractions of the axes."""
    to_fractions = axes.transData - axes.transAxes
    return [to_fractions.transform(curve.points[-1]) for curve in panel.curves]


def _text_box(x, y, alignment, text):
    """(left, bottom, right, top) of a text aligned at a point, in pixels."""
    width = CHARACTER * len(text)
    left = x - {"left": 0, "center": 0.5, "right": 1}[alignment] * width
    return left, y - LINE / 2, left + width, y + LINE / 2


def _covered(box, taken, width, height):
    """How many boxes lie under one; a place outside of the axes comes last."""
    left, bottom, right, top = box
    outside = left < 0 or bottom < 0 or right > width or top > height
    return 1000 * outside + sum(left < x1 and right > x0 and bottom < y1 and top > y0 for x0, y0, x1, y1 in taken)


def spread(heights: list[float], gap: float) -> list[float]:
    """Heights in [0, 1], moved apart by as little as keeps each ``gap`` from the next, in the same order."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    # Groups of labels that touch, each centred on where its labels would like to be.
    groups = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _top(groups[-2], heights, gap) > _bottom(groups[-1], heights, gap):
            last = groups.pop()
            groups[-1] += last
    placed = list(heights)
    for group in groups:
        for place, index in enumerate(group):
            placed[index] = _bottom(group, heights, gap) + gap * place
    return placed


def _bottom(group, heights, gap):
    extent = gap * (len(group) - 1)
    return min(max(sum(heights[index] for index in group) / len(group) - extent / 2, 0), max(1 - extent, 0))


def _top(group, heights, gap):
    return _bottom(group, heights, gap) + gap * len(group)


def _draw_legend(figure, labels, height, scatter):
    axes = figure.add_axes((0, 0, 1, height / 96 / figure.get_size_inches()[1]))
    axes.set_axis_off()
    axes.set(xlim=(0, NARROW), ylim=(height, 0))
    for row, (slot, label) in enumerate(sorted(labels.items())):
        line = [30] if scatter else [14, 30, 46]
        axes.plot(line, [18 * row + 9] * len(line), markevery=[len(line) // 2], **_style(slot))
        axes.text(54, 18 * row + 9, _shortened(label), va="center_baseline")
