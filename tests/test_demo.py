"""The demo: what each step leaves, and that a second call goes on."""

import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from contrast_arch import demo
from contrast_arch.cli import main
from contrast_arch.experiments import compare
from contrast_arch.pipeline import check


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Folder of a demo that was interrupted in its training and called again, output, and pages that were opened.

    Of one even smaller network.
    """
    root, opened, out = tmp_path_factory.mktemp("demo"), [], []

    def interrupt(*args, on_line, **kwargs):
        def first(line):
            if "iter:       3" in line:
                raise KeyboardInterrupt
            on_line(line)

        return launch(*args, on_line=first, **kwargs)

    launch = compare.launch
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(demo, "NETWORKS", {"Contrast": "dims"})
        patch.setattr(demo, "SMALL", {"depths": [1], "num_heads": [2]})
        patch.setattr(demo, "WIDTH", 12)
        patch.setattr(demo, "LONGEST", 24)
        patch.setattr(demo.webbrowser, "open", opened.append)
        patch.setenv("DISPLAY", ":0")
        patch.setattr("builtins.print", lambda *words, **kwargs: out.append(" ".join(map(str, words))))
        patch.setattr(compare, "launch", interrupt)
        assert main(["demo", "--iterations", "5"]) == 130
        left = {path.name for path in (root / "results/demo").rglob("*.png")}
        patch.setattr(compare, "launch", launch)
        patch.chdir(root)
        assert main(["demo", "--iterations", "5"]) == 0
    return root / "results" / "demo", out, opened, left


def test_the_photograph_comes_first_and_stays(shown):
    folder, out, _, left = shown
    assert "chelsea_x4.png" in left
    with Image.open(folder / "chelsea_x4.png") as image:
        assert image.size == (96, 64)
    assert out.count(f"a photograph, four times as large: {folder / 'chelsea_x4.png'}") == 2


def test_the_second_call_goes_on(shown):
    """From the state that the interrupted training saved: no iteration is trained twice."""
    folder, *_ = shown
    log = (folder / "compare" / "demo_Contrast.out").read_text()
    assert re.search(r"Resuming training from epoch: 0, iter: [34]\.", log)
    iterations = re.findall(r"iter: +(\d),", log)
    assert iterations == sorted({*iterations}) and iterations[:2] == ["1", "2"] and iterations[-1] == "5"
    assert (folder / "experiments/demo_Contrast/models/net_g_latest.pth").is_file()


def test_the_report_is_shown(shown):
    folder, out, opened, _ = shown
    page = folder / "report" / "index.html"
    assert out[-1] == f"the report: {page}" and opened == [page.as_uri()]
    report = (folder / "report" / "report.md").read_text()
    assert "validation" in report and "demo_Contrast" in report
    # Two photographs: LQ, bicubic, the network, and GT of each.
    assert len(list((folder / "report").glob("picture_*.png"))) == 8
    assert not list(folder.rglob(".*")) and [path.name for path in folder.parents[1].iterdir()] == ["results"]


def test_options_of_the_other_network_fit(shown, monkeypatch):
    monkeypatch.chdir(shown[0])
    monkeypatch.setattr(demo, "WIDTH", 12)
    file = demo._write_options("HATLight", 10)
    check(shown[0] / file)
    assert yaml.safe_load((shown[0] / file).read_text())["network_g"]["embed_dim"] == 12


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--iterations", "0"], "--iterations 0: expected more than 0"),
        (["--iterations", "10000000000"], "--iterations 10000000000: expected at most 1000000000"),
        (["--folder", "loop/inside"], "loop/inside: Too many levels of symbolic links"),
    ],
)
def test_what_is_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    assert main(["demo", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]
