import re

import pytest
import yaml

from contrast_arch import demo
from contrast_arch.cli import main
from contrast_arch.pipeline import check
from tests.conftest import ROOT


def test_the_whole_demo_in_a_few_iterations(tmp_path, monkeypatch, capsys):
    """With one even smaller network; the options of the other one are checked alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "NETWORKS", {"Contrast": "Contrast"})
    monkeypatch.setattr(demo, "SMALL", {"depths": [1], "num_heads": [2]})
    monkeypatch.setattr(demo, "WIDTH", 12)
    assert main(["demo", "--iterations", "10"]) == 0
    folder = tmp_path / "results" / "demo"
    table = (folder / "table.md").read_text()
    assert table in capsys.readouterr().out
    rows = {row[0]: row[1:] for row in re.findall(r"\| (\S+) \| ([\d.]+) \| ([\d.]+) \| (\S+) \| (\S+) \|", table)}
    # MATLAB-like bicubic of chelsea and coffee, by BasicSR's metrics.
    assert float(rows["bicubic"][0]) == pytest.approx(29.38, abs=0.05)
    assert float(rows["bicubic"][1]) == pytest.approx(0.786, abs=0.002)
    psnr, ssim, parameters, seconds = rows["Contrast"]
    assert 5 < float(psnr) < 30 and 0 < float(ssim) < 1
    assert 10_000 < int(parameters.replace(",", "")) < 50_000
    assert float(seconds) > 0
    pictures = {p.name: p.read_bytes()[:4] for p in folder.glob("*.png")}
    assert pictures == dict.fromkeys(("chelsea.png", "coffee.png", "loss.png"), b"\x89PNG")
    assert not list(folder.glob(".*")) and sorted(p.name for p in tmp_path.iterdir()) == ["results"]
    train_file, _ = demo.write_options(folder, "HATLight", 10)
    check(train_file)
    assert yaml.safe_load(train_file.read_text())["network_g"]["embed_dim"] == 12


def test_a_folder_that_is_not_utf8(capsys):
    assert main(["demo", "--folder", "caf\udce9"]) == 1
    assert r"caf\udce9: its name is not UTF-8, and OpenCV cannot write there" in capsys.readouterr().err


def test_too_few_or_too_many_iterations_are_refused(capsys):
    for count in (5, 10**10):
        assert main(["demo", "--iterations", str(count)]) == 1
        assert f"--iterations {count}: expected at least 10" in capsys.readouterr().err


def test_options_are_copied_once(tmp_path, capsys):
    target = tmp_path / "options"
    assert main(["options", "--folder", str(target)]) == 0
    copied = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert copied == sorted(str(path.relative_to(ROOT / "options")) for path in (ROOT / "options").rglob("*.*"))
    assert main(["options", "--folder", str(target)]) == 1
    assert "exists already; name a new folder" in capsys.readouterr().err
