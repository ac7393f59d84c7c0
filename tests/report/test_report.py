"""Reports as they are written: page, figures, tables."""

import itertools
import re

import pytest
from PIL import Image

from contrast_arch.report import figures
from tests.report.reports import FILES, Page, make, rows, three_runs
from tests.report.writing import Start, whole_run


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The report of three runs."""
    root = tmp_path_factory.mktemp("three")
    return make(root, *three_runs(root))


def test_files(out):
    assert {path.name for path in out.iterdir()} == FILES
    for name in FILES:
        if name.endswith("png"):
            with Image.open(out / name) as image:
                image.load()
                assert image.width == pytest.approx(figures.WIDE * 200 / 96, abs=2)
                assert 600 < image.height < 1500
                assert len(image.convert("RGB").getcolors(1 << 20)) > 50


def test_curves_csv(out):
    lines = rows(out / "curves.csv")
    assert list(lines[0]) == ["experiment", "network", "tag", "iteration", "images", "value"]
    values = {(line["experiment"], line["tag"], int(line["iteration"])): line for line in lines}
    last = values["Contrast", "metrics/Set5/psnr", 60]
    assert (last["network"], last["images"], float(last["value"])) == ("Contrast", "240", pytest.approx(30.6))
    means = {i: float(line["value"]) for (e, tag, i), line in values.items() if (e, tag[-6:]) == ("Mamba_a", " mean)")}
    assert means == {20: 0.1}
    assert sum(line["tag"] == "losses/l_pix" for line in lines) == 6 + 6 + 3
    assert len(values) == len(lines)


def test_summary_csv(out):
    contrast, _, mamba = rows(out / "summary.csv")
    expected = {
        "folder": "train_Contrast_SRx4",
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
    assert (mamba["experiment"], mamba["images"], mamba["finished"], mamba["memory_mib"]) == (
        "Mamba_a",
        "120",
        "False",
        "",
    )


@pytest.mark.usefixtures("no_drawing")
def test_best_is_not_last(tmp_path):
    start = Start(tmp_path)
    for iteration, psnr in ((20, float("nan")), (40, 31.5), (60, 30.0)):
        start.train({iteration: 0.1})
        start.validate(iteration, psnr=psnr)
    start.train({80: 0.1})
    start.validate(80, psnr=31.0)
    start.close()
    out = make(tmp_path, start.folder)
    (line,) = rows(out / "summary.csv")
    assert (line["Set5_psnr_best"], line["Set5_psnr_best_images"]) == ("31.5", "160")
    assert (line["Set5_psnr_last"], line["Set5_psnr_last_images"]) == ("31", "320")
    assert "31.50 (at 160) | 31.00 (at 320)" in (out / "report.md").read_text()


def test_page_needs_nothing_else(out):
    text = (out / "index.html").read_text()
    page = Page(text)
    assert "http" not in text
    assert "@import" not in text
    assert not {"script", "link", "img", "iframe", "object", "image"} & {tag for tag, _ in page.elements}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("href", "src", "srcset", "xlink:href", "aria-labelledby"):
                assert value.removeprefix("#") in ids
    assert len(text) < 2e6


def test_page_is_accessible(out):
    text = (out / "index.html").read_text()
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" and "width=device-width" in meta["content"] for meta in page.all("meta"))
    assert "prefers-color-scheme: dark" in text
    assert [tag for tag, _ in page.elements if tag in ("h1", "h2")] == ["h1", *["h2"] * 6]
    drawings = page.all("svg")
    assert len(drawings) == 6  # wide and narrow of each figure
    assert all(svg["role"] == "img" and "Contrast" in svg["aria-label"] for svg in drawings)
    assert "Set5 PSNR (dB): Contrast 30.60 at 240; HATLight 29.60 at 240; Mamba_a 28.00 at 80." in text
    assert {cell["scope"] for cell in page.all("th")} == {"col", "colgroup", "row"}


def test_colours_come_from_the_page_and_stay_with_the_network(tmp_path):
    """A network that is missing in one figure does not lend its colour to the next."""
    contrast, _, mamba = three_runs(tmp_path)
    start = Start(tmp_path, "train_NoVal_SRx4")
    start.train({10: 0.1, 20: 0.1})
    start.close()
    page = (make(tmp_path, contrast, start.folder, mamba) / "index.html").read_text()
    loss, validation, *_ = page.split("<section>")[1:]
    assert [f"var(--c{i})" in loss for i in range(4)] == [True, True, True, False]
    assert [f"var(--c{i})" in validation for i in range(4)] == [True, False, True, False]
    drawings = page[page.index("<svg") :]
    assert not [color for color in (*figures.LIGHT, figures.INK, figures.PAGE) if color in drawings]
    for i, (light, dark) in enumerate(zip(figures.LIGHT, figures.DARK, strict=True)):
        assert f"--c{i}: {light}" in page
        assert f"--c{i}: {dark}" in page


def test_markdown(out):
    text = (out / "report.md").read_text()
    for name in FILES:
        assert not name.endswith("png") or f"]({name})" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 5
    assert {line.count("|") for line in table} == {11}
    assert table[2].startswith("| Contrast | Contrast | 1,491,300 | 30.60 (at 240) |")
    assert table[4].endswith("| 120 (not finished) | 0.500 | - |")
    assert "The same for all: scale 4, GT patches of 64x64, 4 images an iteration, a checkpoint every 80 images" in text


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(
    "names, labels",
    [
        (["train_A_x4", "train_B_c_x4"], ["A", "B_c"]),
        (["A", "A_b"], ["A", "A_b"]),
        (["x_A", "x_A_x"], ["A", "A_x"]),
        (["a_b_c"], ["a_b_c"]),
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
    start.close()
    out = make(tmp_path, start.folder)
    text = (out / "index.html").read_text()
    assert "a&lt;b&gt;|$x$" in text
    assert not Page(text).all("b") + Page(text).all("i")
    assert [path.name for path in out.glob("validation*")] == ["validation_S__i_5.png"]
    assert "| a<b>\\|$x$ |" in (out / "report.md").read_text()


def test_long_labels_are_shortened_in_the_middle(tmp_path):
    folders = [whole_run(tmp_path, f"{end}{'x' * 60}{end}") for end in "AB"]
    text = (make(tmp_path, *folders) / "index.html").read_text()
    drawn = " ".join(re.findall("<text[^>]*>([^<]*)</text>", text))
    for end in "AB":
        assert f"{end}{'x' * 15}…{'x' * 16}{end}" in drawn
        assert f"{end}{'x' * 60}{end}" not in drawn
        assert f"{end}{'x' * 60}{end}" in text


@pytest.mark.parametrize(
    "heights, gap", [([0.5], 0.1), ([0.9, 0.9, 0.9], 0.1), ([0.0, 0.01, 1.0, 0.99, 0.5], 0.15), ([0.2] * 10, 0.2)]
)
def test_spread(heights, gap):
    placed = figures.spread(heights, gap)
    order = sorted(range(len(heights)), key=lambda i: (heights[i], i))
    ordered = [placed[i] for i in order]
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(ordered))
    if gap * len(heights) <= 1:
        assert ordered[0] >= -1e-9
        assert ordered[-1] <= 1 + 1e-9
    if len(heights) == 1:
        assert placed == heights
