"""Reports as they are written: page, figures, tables and notes; what is refused."""

import sys

import pytest
from matplotlib.figure import Figure
from PIL import Image

from contrast_arch.cli import main
from contrast_arch.errors import InputError
from contrast_arch.experiments import charts
from tests.experiments.recording import recorded_run
from tests.experiments.reports import FILES, Page, make, rows, three_runs
from tests.experiments.writing import OPTIONS, Start, changed, whole_run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The report of three runs."""
    root = tmp_path_factory.mktemp("three")
    return make(root, *three_runs(root))


def test_files(drawn):
    assert {path.name for path in drawn.iterdir()} == FILES
    for path in drawn.glob("*.png"):
        with Image.open(path) as image:
            assert image.width == 1580 and 600 < image.height < 1500
            assert len(image.convert("RGB").getcolors(1 << 20)) > 50


def test_ticks_of_a_logarithmic_axis_are_numbers(drawn, monkeypatch):
    """Losses of less than a decade, whose ticks matplotlib would write as formulas."""
    ticks, save = [], Figure.savefig

    def savefig(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        ticks.extend(label.get_text() for label in figure.axes[0].get_yticklabels(which="both"))

    monkeypatch.setattr(Figure, "savefig", savefig)
    x = {"images": [2000, 4000], "iterations": [500, 1000]}
    curve = {"slot": 0, "label": "A_b", "x": x, "y": [7e-3, 2.5e-3], "low": [], "high": []}
    charts.png({"panels": [{"y_label": "l_pix", "curves": [curve], "log": True}]})
    shown = [float(text.replace("\N{MINUS SIGN}", "-")) for text in ticks if text]
    assert shown and min(shown) >= 1e-3 and max(shown) <= 1e-2


def test_page_needs_nothing_else_and_is_accessible(drawn):
    """Plotly's script is embedded; the page refers to files of its own folder and to option files."""
    text = (drawn / "index.html").read_text()
    assert "plotly.js v" in text and "Plotly.react(" in text
    page = Page(drawn)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.elements}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in {"href", "src"} & set(attributes):
            value = attributes[name]
            assert value[1:] in ids if value.startswith("#") else (drawn / value).is_file()
    assert [a["href"] for a in page.all("a") if a["href"].endswith(".yml")] == [
        f"../experiments/train_{name}_from_scratch/train_{name}_from_scratch.yml"
        for name in ("Contrast", "HATLight", "Mamba_a")
    ]
    assert page.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" and "width=device-width" in meta["content"] for meta in page.all("meta"))
    assert "prefers-color-scheme: dark" in page.html and 'data-theme="dark"' in page.html
    plots = [div for div in page.all("div") if div.get("class") == "plot"]
    assert [plot["id"] for plot in plots] == ["loss-0", "validation_Set5-0", "validation_Set5-1"]
    assert [plot["aria-label"] for plot in plots] == ["Training loss", *["Validation on Set5"] * 2]
    assert {cell["scope"] for cell in page.all("th")} == {"col", "row"}


def test_curves_of_the_page(drawn):
    page = Page(drawn)
    psnr = page.curves("validation_Set5-0")
    assert psnr["Contrast"]["x"] == {"images": [80, 160, 240], "iterations": [20, 40, 60], "hours": [0, 0, 0]}
    assert psnr["Contrast"]["y"] == [30.2, 30.4, 30.6]
    assert psnr["Mamba_a"]["x"]["images"] == [80]
    assert page.panels["loss-0"]["log"] and not page.panels["validation_Set5-0"]["log"]


def test_a_network_keeps_its_colour(tmp_path):
    """A network that is missing in one figure does not lend its colour to the next."""
    contrast, _, mamba = three_runs(tmp_path)
    start = Start(tmp_path, "train_NoVal")
    start.train({10: 0.1, 20: 0.1})
    page = Page(make(tmp_path, contrast, start.folder, mamba))
    slots = [[c["slot"] for c in page.curves(panel).values()] for panel in ("loss-0", "validation_Set5-0")]
    assert slots == [[0, 1, 2], [0, 2]]


def test_csv(drawn):
    lines = rows(drawn / "curves.csv")
    assert list(lines[0]) == ["experiment", "network", "tag", "iteration", "images", "hours", "value"]
    values = {(line["experiment"], line["tag"], int(line["iteration"])): line for line in lines}
    last = values["Contrast", "metrics/Set5/psnr", 60]
    assert (last["network"], last["images"], float(last["value"])) == ("Contrast", "240", pytest.approx(30.6))
    assert sum(line["tag"] == "losses/l_pix" for line in lines) == 6 + 6 + 3
    assert len(values) == len(lines)
    contrast, _, mamba = rows(drawn / "summary.csv")
    expected = {"network": "Contrast", "seeds": "1", "parameters": "1491300", "images": "240"}
    expected |= {
        "Set5 best PSNR": "30.6",
        "Set5 last SSIM": "0.86",
        "seconds an iteration": "0.5",
        "seconds an iteration low": "0.5",
    }
    assert contrast.items() >= expected.items()
    assert (mamba["network"], mamba["images"], mamba["peak memory (MiB)"]) == ("Mamba_a", "120", "")


def test_markdown(drawn):
    text = (drawn / "report.md").read_text()
    assert all(f"]({name})" in text for name in FILES if name.endswith("png"))
    table = [line for line in text.partition("## Options")[0].splitlines() if line.startswith("|")]
    assert len(table) == 5 and {line.count("|") for line in table} == {12}
    assert table[2].startswith("| Contrast (Contrast) | 1 | 1,491,300 | 30.60 | 30.60 | 0.8600 |")
    assert table[4].endswith("| 120 (not finished) | 0.00 | 0.500 (0.500 to 0.500) | - |")


def test_best_is_not_last(tmp_path):
    start = Start(tmp_path)
    for iteration, psnr in ((20, float("nan")), (40, 31.5), (60, 30.0)):
        start.train({iteration: 0.1})
        start.validate(iteration, psnr=psnr)
    start.train({80: 0.1})
    start.validate(80, psnr=31.0)
    out = make(tmp_path, start.folder)
    (line,) = rows(out / "summary.csv")
    assert (line["Set5 best PSNR"], line["Set5 last PSNR"]) == ("31.5", "31")
    assert "| 31.50 | 31.00 |" in (out / "report.md").read_text()
    assert Page(out).curves("validation_Set5-0")["A"]["y"] == [31.5, 30.0, 31.0]


def test_hours_memory_and_the_spread_of_iteration_times(tmp_path):
    """Of a record: training time alone. Ten seconds for the first ten iterations, half a second each afterwards."""
    (line,) = rows(make(tmp_path, recorded_run(tmp_path)) / "summary.csv")
    assert float(line["hours"]) == pytest.approx(30 / 3600) and line["peak memory (MiB)"] == "300"
    start = Start(tmp_path, "B")
    for iteration, (seconds, clock) in enumerate([(0.4, "00:10:00"), (0.5, "00:20:00"), (0.9, "00:30:00")], start=1):
        start.train({10 * iteration: 0.1}, seconds, clock)
    out = make(tmp_path, start.folder)
    assert "| 120 (not finished) | 0.50 | 0.500 (0.400 to 0.900) |" in (out / "report.md").read_text()


def test_labels(tmp_path):
    names = ["train_A_SRx4_from_scratch", "x_A", "t_A_seed0", "t_B_seed0", "t_A_seed1"]
    folders = [whole_run(tmp_path, name) for name in names] + [whole_run(tmp_path / "two", "x_A")]
    out = make(tmp_path, *folders)
    labels = list(dict.fromkeys(line["experiment"] for line in rows(out / "curves.csv")))
    paths = [str(folders[1]), str(folders[5])]
    assert labels == ["A_SRx4", paths[0], "t_A seed 0", "t_B seed 0", "t_A seed 1", paths[1]]
    assert [line["network"] for line in rows(out / "summary.csv")] == ["A_SRx4", paths[0], "t_A", "t_B", paths[1]]


def test_names_are_escaped(tmp_path):
    start = Start(tmp_path, "a<b>|$x$")
    start.train({20: 0.1})
    start.validate(20, dataset="S&<i>5", psnr=30.0)
    out = make(tmp_path, start.folder)
    page = Page(out)
    assert "a&lt;b&gt;|$x$" in page.html and not page.all("b") + page.all("i")
    assert [path.name for path in out.glob("validation*")] == ["validation_S__i_5.png"]
    assert "| a<b>\\|$x$ (Contrast) |" in (out / "report.md").read_text()


# Notes


def notes_of(out, capsys):
    """Notes, which have to stand in the page, in report.md and on stdout alike."""
    printed = capsys.readouterr().out.splitlines()
    notes = [line.removeprefix("note: ") for line in printed if line.startswith("note: ")]
    assert all(note in Page(out).text and f"- {note}\n" in (out / "report.md").read_text() for note in notes)
    return notes


def test_notes_stand_everywhere(tmp_path, capsys):
    folders = three_runs(tmp_path)
    (note,) = notes_of(make(tmp_path, *folders, folders[0]), capsys)
    assert note.startswith("3 of 3 pairs of networks and validation sets have no interval: no validation of both after")
    out = make(tmp_path, folders[0])
    assert notes_of(out, capsys) == [] and "Nothing was missing." in Page(out).text


def test_no_validation_and_nothing_at_all(tmp_path, capsys):
    whole, without, empty = whole_run(tmp_path), Start(tmp_path, "C"), Start(tmp_path, "D")
    without.train({20: 0.1, 60: 0.1})
    out = make(tmp_path, without.folder)
    assert {path.name for path in out.iterdir()} == FILES - {"validation_Set5.png"}
    out = make(tmp_path, whole, empty.folder)
    assert notes_of(out, capsys) == [f"{empty.folder}: no value in metrics.jsonl or train_*.log so far"]
    with pytest.raises(InputError, match=r"(?s)nothing to report in any experiment:.*D: no value in metrics.jsonl"):
        make(tmp_path, empty.folder)


# Options


def different(tmp_path, other):
    """Lines of the table of options, of a run and another one."""
    out = make(tmp_path, whole_run(tmp_path), other)
    table = (out / "report.md").read_text().partition("## Options that differ\n\n")[2].partition("\n\n")[0]
    return table.splitlines()[2:]


def test_a_resumed_run_does_not_differ_in_its_own_checkpoint(tmp_path):
    """BasicSR writes what it resumes from over what the run began with."""
    own = str(tmp_path / "experiments" / "B" / "models")
    resumed = changed(OPTIONS, path={"models": own, "pretrain_network_g": f"{own}/net_g_20.pth"})
    assert different(tmp_path, whole_run(tmp_path, "B", options=resumed)) == []
    tuned = changed(OPTIONS, path={"models": own, "pretrain_network_g": "experiments/X2/models/net_g_latest.pth"})
    assert different(tmp_path, whole_run(tmp_path, "C", options=tuned)) == [
        "| path: pretrain_network_g | none | experiments/X2/models/net_g_latest.pth |"
    ]


@pytest.mark.parametrize(
    "change, line",
    [
        ({"train__optim_g__lr": 4e-4}, "train: optim_g: lr | 0.0002 | 0.0004"),
        ({"train__ema_decay": 0.999}, "train: ema_decay | none | 0.999"),
        ({"datasets__train__dataroot_gt": "other"}, "datasets: train: dataroot_gt | none | other"),
        ({"datasets__train__batch_size_per_gpu": 8}, "images an iteration | 4 | 8"),
        ({"datasets__val_1__dataroot_gt": "x"}, "datasets: val_1: dataroot_gt | data/Set5 | x"),
        ({"scale": 2}, "scale | 4 | 2"),
        ({"val__metrics__psnr__crop_border": 0}, "val: metrics: psnr: crop_border | 4 | 0"),
        ({"network_g__type": "HATLight"}, "network_g: type | Contrast | HATLight"),
        # Options of speed.
        ({"datasets__train__num_worker_per_gpu": 9, "name": "other"}, None),
    ],
)
def test_options_that_differ(tmp_path, change, line):
    other = whole_run(tmp_path, "B", options=changed(OPTIONS, **change))
    assert different(tmp_path, other) == ([f"| {line} |"] if line else [])


# The folder


def test_second_call_replaces_and_leaves_other_files(tmp_path):
    out = make(tmp_path, whole_run(tmp_path))
    (out / "thesis.tex").write_text("years of work")
    make(tmp_path, whole_run(tmp_path, "B"))
    assert {path.name for path in out.iterdir()} == FILES | {"thesis.tex"}
    assert rows(out / "summary.csv")[0]["network"] == "B"


def test_failure_leaves_the_earlier_page(tmp_path, monkeypatch):
    folder = whole_run(tmp_path)
    out = make(tmp_path, folder)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(OSError):
        make(tmp_path, folder)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: expected the folder of an experiment, experiments/NAME"):
        make(tmp_path, whole_run(tmp_path), tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["jinja2", "plotly.offline", "matplotlib"])
def test_missing_package(tmp_path, monkeypatch, capsys, package):
    for module in ("report", "charts"):
        monkeypatch.delitem(sys.modules, f"contrast_arch.experiments.{module}")
        monkeypatch.delattr(f"contrast_arch.experiments.{module}")
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["report", str(whole_run(tmp_path)), "--output", str(tmp_path / "out")]) == 1
    expected = f"contrast-arch report needs {package}, which is not installed: pip install 'contrast-arch[report]'"
    assert expected in capsys.readouterr().err and not (tmp_path / "out").exists()
