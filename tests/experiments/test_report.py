"""Reports as they are written: page, figures, tables."""

import json
import re

import pytest
from PIL import Image

from tests.experiments.recording import recorded_run
from tests.experiments.reports import FILES, Page, make, rows, three_runs
from tests.experiments.writing import OPTIONS, Start, changed, whole_run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The report of three runs."""
    root = tmp_path_factory.mktemp("three")
    return make(root, *three_runs(root))


def page_data(out):
    """Data of the page's script."""
    text = (out / "index.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])


def curves(out, panel):
    return {curve["label"]: curve for curve in panels(out)[panel]["curves"]}


def panels(out):
    return {panel["id"]: panel for chart in page_data(out)["charts"] for panel in chart["panels"]}


def test_files(drawn):
    assert {path.name for path in drawn.iterdir()} == FILES
    for name in FILES:
        if name.endswith("png"):
            with Image.open(drawn / name) as image:
                image.load()
                assert image.width == 1580
                assert 600 < image.height < 1500
                assert len(image.convert("RGB").getcolors(1 << 20)) > 50


def test_page_needs_nothing_else(drawn):
    """Plotly's script is embedded; the page refers to files of its own folder and to option files."""
    text = (drawn / "index.html").read_text()
    assert "plotly.js v" in text and "Plotly.react(" in text
    page = Page(re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.elements}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in {"href", "src"} & set(attributes):
            value = attributes[name]
            assert value[1:] in ids if value.startswith("#") else (drawn / value).is_file()
    assert [a["href"] for a in page.all("a") if a["href"].endswith(".yml")] == [
        f"../experiments/train_{name}_SRx4/train_{name}_SRx4.yml" for name in ("Contrast", "HATLight", "Mamba_a")
    ]


def test_page_is_accessible(drawn):
    text = re.sub(r"<script>.*?</script>", "", (drawn / "index.html").read_text(), flags=re.DOTALL)
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" and "width=device-width" in meta["content"] for meta in page.all("meta"))
    assert "prefers-color-scheme: dark" in text and 'data-theme="dark"' in text
    plots = [div for div in page.all("div") if div.get("class") == "plot"]
    assert [plot["id"] for plot in plots] == ["loss-0", "validation_Set5-0", "validation_Set5-1", "parameters-0"]
    assert all(plot["role"] == "img" and "Contrast" in plot["aria-label"] for plot in plots)
    assert "Set5 PSNR (dB): Contrast 30.60 at 240; HATLight 29.60 at 240; Mamba_a 28.00 at 80." in text
    assert {cell["scope"] for cell in page.all("th")} == {"col", "row"}


def test_curves_of_the_page(drawn):
    psnr = curves(drawn, "validation_Set5-0")
    assert psnr["Contrast"]["x"] == {"images": [80, 160, 240], "iterations": [20, 40, 60], "hours": [0, 0, 0]}
    assert psnr["Contrast"]["y"] == [30.2, 30.4, 30.6]
    assert psnr["Mamba_a"]["x"]["images"] == [80]
    assert panels(drawn)["loss-0"]["log"] and not panels(drawn)["validation_Set5-0"]["log"]
    assert curves(drawn, "parameters-0")["HATLight"]["x"] == {"parameters": [1491300]}


def test_a_network_keeps_its_colour(tmp_path):
    """A network that is missing in one figure does not lend its colour to the next."""
    contrast, _, mamba = three_runs(tmp_path)
    start = Start(tmp_path, "train_NoVal_SRx4")
    start.train({10: 0.1, 20: 0.1})
    out = make(tmp_path, contrast, start.folder, mamba)
    slots = [[c["slot"] for c in curves(out, panel).values()] for panel in ("loss-0", "validation_Set5-0")]
    assert slots == [[0, 1, 2], [0, 2]]


def test_curves_csv(drawn):
    lines = rows(drawn / "curves.csv")
    assert list(lines[0]) == ["experiment", "network", "tag", "iteration", "images", "hours", "value"]
    values = {(line["experiment"], line["tag"], int(line["iteration"])): line for line in lines}
    last = values["Contrast", "metrics/Set5/psnr", 60]
    assert (last["network"], last["images"], float(last["value"])) == ("Contrast", "240", pytest.approx(30.6))
    means = {i: float(line["value"]) for (e, tag, i), line in values.items() if (e, tag[-6:]) == ("Mamba_a", " mean)")}
    assert means == {20: 0.1}
    assert sum(line["tag"] == "losses/l_pix" for line in lines) == 6 + 6 + 3
    assert len(values) == len(lines)


def test_summary_csv(drawn):
    contrast, _, mamba = rows(drawn / "summary.csv")
    expected = {
        "folder": "train_Contrast_SRx4",
        "group": "Contrast",
        "parameters": "1491300",
        "images": "240",
        "interval_images": "80",
        "finished": "True",
        "seconds_per_iteration": "0.5",
        "memory_mib": "1234",
        "memory_kind": "resident, CPU",
        "Set5_psnr_best_images": "240",
        "Set5_ssim_last_images": "240",
    }
    assert contrast.items() >= expected.items()
    assert float(contrast["Set5_psnr_best"]) == pytest.approx(30.6)
    found = mamba["experiment"], mamba["images"], mamba["finished"], mamba["memory_mib"]
    assert found == ("Mamba_a", "120", "False", "")


def test_markdown(drawn):
    text = (drawn / "report.md").read_text()
    for name in FILES:
        assert not name.endswith("png") or f"]({name})" in text
    table = [line for line in text.partition("## Options")[0].splitlines() if line.startswith("|")]
    assert len(table) == 5
    assert {line.count("|") for line in table} == {12}
    assert table[2].startswith("| Contrast | Contrast | 1,491,300 | 30.60 (at 240) |")
    assert table[4].endswith("| 120 (not finished) | 0.00 | 0.500 (0.500 to 0.500) | - |")
    assert "The same for all: scale 4, GT patches of 64x64, 4 images an iteration, a checkpoint every 80 images" in text


def test_best_is_not_last(tmp_path):
    start = Start(tmp_path)
    for iteration, psnr in ((20, float("nan")), (40, 31.5), (60, 30.0)):
        start.train({iteration: 0.1})
        start.validate(iteration, psnr=psnr)
    start.train({80: 0.1})
    start.validate(80, psnr=31.0)
    out = make(tmp_path, start.folder)
    (line,) = rows(out / "summary.csv")
    assert (line["Set5_psnr_best"], line["Set5_psnr_best_images"]) == ("31.5", "160")
    assert (line["Set5_psnr_last"], line["Set5_psnr_last_images"]) == ("31", "320")
    assert "31.50 (at 160) | 31.00 (at 320)" in (out / "report.md").read_text()
    assert curves(out, "validation_Set5-0")["A"]["y"] == [31.5, 30.0, 31.0]


def test_hours_and_the_spread_of_iteration_times(tmp_path):
    """Of a record: training time alone. Ten seconds for the first ten iterations, half a second each afterwards."""
    out = make(tmp_path, recorded_run(tmp_path))
    (line,) = rows(out / "summary.csv")
    assert float(line["hours"]) == pytest.approx(30 / 3600)
    start = Start(tmp_path, "B")
    for iteration, (seconds, clock) in enumerate([(0.4, "00:10:00"), (0.5, "00:20:00"), (0.9, "00:30:00")], start=1):
        start.train({10 * iteration: 0.1}, seconds, clock)
    out = make(tmp_path, start.folder)
    assert "| 120 (not finished) | 0.50 | 0.500 (0.400 to 0.900) |" in (out / "report.md").read_text()


def test_options_that_differ(tmp_path):
    options = changed(OPTIONS, network_g={"type": "HATLight", "upscale": 4}, train__optim_g__lr=1e-4)
    out = make(tmp_path, whole_run(tmp_path), whole_run(tmp_path, "B", options=options))
    table = (out / "report.md").read_text().partition("## Options that differ\n\n")[2].partition("\n\n")[0]
    assert table.splitlines()[2:] == [
        "| network_g: type | Contrast | HATLight |",
        "| train: optim_g: lr | 0.0002 | 0.0001 |",
    ]


@pytest.mark.parametrize(
    "names, labels",
    [
        (["train_A_x4", "train_B_c_x4"], ["A", "B_c"]),
        (["A", "A_b"], ["A", "A_b"]),
        (["x_A", "x_A_x"], ["A", "A_x"]),
        (["a_b_c"], ["a_b_c"]),
        (["t_A_x_seed0", "t_B_x_seed0", "t_A_x_seed1"], ["A seed 0", "A seed 1", "B seed 0"]),
    ],
)
def test_labels(tmp_path, names, labels):
    out = make(tmp_path, *(whole_run(tmp_path, name) for name in names))
    assert [line["experiment"] for line in rows(out / "summary.csv")] == labels


def test_names_are_escaped(tmp_path):
    start = Start(tmp_path, "a<b>|$x$")
    start.train({20: 0.1})
    start.validate(20, dataset="S&<i>5", psnr=30.0)
    start.train({30: 0.1})  # not a whole interval, which a note says
    out = make(tmp_path, start.folder)
    text = (out / "index.html").read_text()
    assert "a&lt;b&gt;|$x$" in text
    page = Page(re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    assert not page.all("b") + page.all("i")
    assert [path.name for path in out.glob("validation*")] == ["validation_S__i_5.png"]
    assert "| a<b>\\|$x$ |" in (out / "report.md").read_text()
