"""The report as one HTML page that needs nothing else: for screens of any width, light and dark."""

from html import escape

from contrast_arch.report import figures, tables
from contrast_arch.report.charts import Chart
from contrast_arch.report.differences import shared_settings
from contrast_arch.report.records import Experiment

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1b1f24; --muted: #59636e; --grid: #d5dae0; --raised: #f5f7f9; --link: #0b57b8;
  LIGHT
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --ink: #e4e8ed; --muted: #9aa5b1; --grid: #343c46; --raised: #1b2129; --link: #8ab8ff;
    DARK
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.5rem 0 .5rem; }
p, ul { max-width: 45rem; }
p small { white-space: normal; }
ul { padding-left: 1.2rem; }
li { margin: .3rem 0; }
a { color: var(--link); }
figure { margin: 0; }
figcaption { color: var(--muted); font-size: .9rem; max-width: 45rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.narrow { max-width: 30rem; margin: 0 auto; }
.wide { display: none; }
@media (min-width: 44rem) { .wide { display: block; } .narrow { display: none; } }
.scroll {
  overflow-x: auto; border: 1px solid var(--grid); border-radius: .4rem; position: relative; left: 50%;
  transform: translateX(-50%); width: max-content; max-width: min(calc(100vw - 2rem), 88rem); min-width: 100%;
}
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .5rem; text-align: right; vertical-align: top; overflow-wrap: normal; }
td, small { white-space: nowrap; }
thead th { background: var(--raised); font-weight: 600; vertical-align: bottom; }
thead th[colspan] { text-align: center; border-left: 1px solid var(--grid); border-right: 1px solid var(--grid); }
tbody tr { border-top: 1px solid var(--grid); }
th:first-child[scope=row], th.first {
  position: sticky; left: 0; text-align: left; background: var(--raised); border-right: 1px solid var(--grid);
}
tbody th { font-weight: 600; }
small { display: block; color: var(--muted); font-size: .75rem; font-weight: 400; }
@media (max-width: 43.9rem) { th:first-child { font-size: .8rem; } }
dt { font-weight: 600; }
dd { margin: 0 0 .6rem; color: var(--muted); font-size: .9rem; }
"""


def page(experiments: list[Experiment], charts: list[Chart], notes: list[str]) -> str:
    """The HTML of the report."""
    title = escape(tables.title(experiments))
    labels = ", ".join(experiment.label for experiment in experiments)
    count = f"{len(notes)} note{'s' if len(notes) > 1 else ''}" if notes else ""
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{escape(labels)}.</p>",
        f"<p>{escape(shared_settings(experiments))}</p>",
        f'<p><a href="#notes">{count}</a> on what was missing or differs.</p>' if notes else "",
        *(_figure(chart) for chart in charts),
        _table(experiments),
        _notes(notes),
        _sources(experiments),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_style()}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def _style():
    def variables(colors):
        return " ".join(f"--c{i}: {color};" for i, color in enumerate(colors))

    return STYLE.replace("LIGHT", variables(figures.LIGHT)).replace("DARK", variables(figures.DARK))


def _figure(chart):
    label = f'<svg role="img" aria-label="{escape(chart.description)}"'
    drawings = "".join(
        f'<div class="{width}">{figures.svg(chart, narrow=width == "narrow").replace("<svg", label, 1)}</div>\n'
        for width in ("wide", "narrow")
    )
    return (
        f"<section>\n<h2>{escape(chart.title)}</h2>\n<figure>\n{drawings}<figcaption>{escape(chart.caption)}</figcaption>"
        "\n</figure>\n</section>"
    )


def _table(experiments):
    columns = tables.columns(experiments)
    first = '<th rowspan="2" scope="col" class="first">experiment<small>network</small></th>'
    upper, lower, groups = [first], [], set()
    for group, heading in columns[1:]:
        if not group:
            upper.append(f'<th rowspan="2" scope="col">{escape(heading)}</th>')
            continue
        lower.append(f'<th scope="col">{escape(heading)}</th>')
        if group not in groups:
            groups.add(group)
            width = sum(other == group for other, _ in columns)
            upper.append(f'<th colspan="{width}" scope="colgroup">{escape(group)}</th>')
    body = "".join(_table_row(row) for row in tables.rows(experiments))
    return (
        '<section>\n<h2 id="table">Table</h2>\n'
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="table">\n'
        f"<table>\n<thead>\n<tr>{''.join(upper)}</tr>\n<tr>{''.join(lower)}</tr>\n</thead>\n<tbody>\n{body}</tbody>\n"
        "</table>\n</div>\n<p><small>Small print below a metric: after how many training images. Seconds an iteration: "
        "median of what BasicSR logged.</small></p>\n</section>"
    )


def _table_row(row):
    label, network, *cells = row
    name = escape(label.text).replace("_", "_<wbr>")
    others = "".join(f"<td>{_cell(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row">{name}<small>{escape(network.text)}</small></th>{others}</tr>\n'


def _cell(cell):
    return escape(cell.text) + (f"<small>{escape(cell.detail)}</small>" if cell.detail else "")


def _notes(notes):
    items = "".join(f"<li>{escape(note)}</li>\n" for note in notes)
    content = f"<ul>\n{items}</ul>" if notes else "<p>Nothing was missing.</p>"
    return f'<section>\n<h2 id="notes">Notes</h2>\n{content}\n</section>'


def _sources(experiments):
    items = "".join(f"<dt>{escape(e.label)}</dt>\n<dd>{', '.join(map(escape, e.sources))}</dd>\n" for e in experiments)
    return f"<section>\n<h2>Sources</h2>\n<dl>\n{items}</dl>\n</section>"
