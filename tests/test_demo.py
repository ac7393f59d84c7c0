import re

import pytest

from contrast_arch import demo
from contrast_arch.cli import main
from tests.conftest import ROOT

LOG = (
    "2026-01-01 INFO: [demo_..][epoch:  0, iter:      10, lr:(2.000e-03,)] [eta: 0:01:00, time (data): 0.250 (0.004)] "
    "l_pix: 4.0000e-02 \n"
    "2026-01-01 INFO: [demo_..][epoch:  0, iter:   1,020, lr:(2.000e-03,)] [eta: 0:00:30, time (data): 0.350 (0.004)] "
    "l_pix: 2.0000e-02 \n"
)


def test_reads_the_log():
    found = [(line.iteration, line.seconds, line.losses["l_pix"]) for line in demo.training_lines(LOG)]
    assert found == [(10, 0.25, 0.04), (1020, 0.35, 0.02)]
    assert demo.metrics("\t # psnr: 29.1234\tBest: 1\n\t # ssim: 0.7801\n") == (29.1234, 0.7801)


def test_the_whole_demo_in_a_few_iterations(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--iterations", "10"]) == 0
    folder = tmp_path / "results" / "demo"
    table = (folder / "table.md").read_text()
    assert table in capsys.readouterr().out
    rows = {row[0]: row[1:] for row in re.findall(r"\| (\S+) \| ([\d.]+) \| ([\d.]+) \| (\S+) \| (\S+) \|", table)}
    # MATLAB-like bicubic of chelsea and coffee, by BasicSR's metrics.
    assert float(rows["bicubic"][0]) == pytest.approx(29.38, abs=0.05)
    assert float(rows["bicubic"][1]) == pytest.approx(0.786, abs=0.002)
    for network in ("HAT-light", "Contrast"):
        psnr, ssim, parameters, seconds = rows[network]
        assert 5 < float(psnr) < 30 and 0 < float(ssim) < 1
        assert 100_000 < int(parameters.replace(",", "")) < 200_000
        assert float(seconds) > 0
    pictures = {p.name: p.read_bytes()[:4] for p in folder.glob("*.png")}
    assert pictures == dict.fromkeys(("chelsea.png", "coffee.png", "loss.png"), b"\x89PNG")
    assert not list(folder.glob(".*")) and sorted(p.name for p in tmp_path.iterdir()) == ["results"]


def test_a_folder_that_is_not_utf8(capsys):
    assert main(["demo", "--folder", "caf\udce9"]) == 1
    assert r"caf\udce9: its name is not UTF-8, and OpenCV cannot write there" in capsys.readouterr().err


def test_too_few_iterations_are_refused(capsys):
    assert main(["demo", "--iterations", "5"]) == 1
    assert "--iterations 5: expected at least 10" in capsys.readouterr().err


def test_options_are_copied_once(tmp_path, capsys):
    target = tmp_path / "options"
    assert main(["options", "--folder", str(target)]) == 0
    copied = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert copied == sorted(str(path.relative_to(ROOT / "options")) for path in (ROOT / "options").rglob("*.*"))
    assert main(["options", "--folder", str(target)]) == 1
    assert "exists already; name a new folder" in capsys.readouterr().err
