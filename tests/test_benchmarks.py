"""The benchmark scripts run from end to end; what they measure here is not looked at."""

import importlib
import json
import os

import pytest

from tests.conftest import ROOT, run_python, write_pairs


def test_gpu_benchmark_runs_dry(tmp_path, monkeypatch):
    """Under Triton's interpreter on the CPU: its checks pass, and every network gets a row."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    script = str(ROOT / "benchmarks" / "gpu.py")
    result = run_python(
        tmp_path, script, "--dry-run", "--modes", "eager", "--precisions", "bf16", "--output", ".", "--name", "dry"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "dry.json").read_text())
    assert len(found["checks"]) >= 12 and all(check["passed"] for check in found["checks"])
    networks = [row["network"] for row in found["steps"]]
    assert networks == ["HAT (upstream)", "Contrast", "ContrastNoPE", "HATLight", "ContrastNoPENoCA", "MambaLight"]
    assert {row["core"] for row in found["core"]} >= {"cuda", "torch"}
    assert "| Contrast | bf16 | eager |" in (tmp_path / "dry.md").read_text()


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="looks at what happens without")
def test_gpu_benchmark_wants_a_gpu(tmp_path):
    result = run_python(tmp_path, str(ROOT / "benchmarks" / "gpu.py"))
    assert result.returncode == 2 and "PyTorch finds no GPU; --dry-run checks the script without one" in result.stderr
    assert not list(tmp_path.iterdir())


def test_cpu_benchmark_runs(tmp_path):
    script = str(ROOT / "benchmarks" / "cpu.py")
    result = run_python(tmp_path, script, "--quick", "--networks", "Contrast", "OmniSR", "--output", ".", "--name", "q")
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "q.json").read_text())
    assert set(found["seconds"]["1"]["step"]) == {"HAT (upstream)", "Contrast", "OmniSR"}
    assert found["peak_mib"]["1"]["HAT (upstream)"] > found["peak_mib"]["1"]["Contrast"] > 0
    assert [row["size"] for row in found["sizes"]] == [32]
    assert {row["backend"] for row in found["core"]} == {"cpu", "torch"}
    assert "| Contrast | 1491K |" in (tmp_path / "q.md").read_text()


def test_tiles_benchmark_runs(tmp_path):
    write_pairs(tmp_path / "Small", count=1, lq=(37, 21))
    arguments = ["--images", "Small/HR", "--networks", "ContrastNoPE_light_SRx4", "--tiles", "32/16", "48/0"]
    script = str(ROOT / "benchmarks" / "tiles.py")
    result = run_python(tmp_path, script, *arguments, "--threads", "1", "--output", ".", "--name", "t")
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "t.json").read_text())
    assert (found["folder"], found["images"]) == ("Small", 1)
    tiles = found["networks"]["ContrastNoPE_light_SRx4"]["tiles"]
    assert tiles["48/0"] is None and tiles["32/16"]["largest"] > tiles["32/16"]["mean"] > 0
    assert "| ContrastNoPE_light_SRx4 | 32/16 | 1 |" in (tmp_path / "t.md").read_text()


def test_readme_shows_the_committed_figures():
    figures = (ROOT / "benchmarks" / "results" / "cpu.md").read_text()
    assert f"<!-- benchmarks/results/cpu.md -->\n{figures}<!-- end -->" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["cpu", "memory", "tiles"])
def test_the_committed_table_is_that_of_the_committed_figures(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = importlib.import_module(name).tables
    results = ROOT / "benchmarks" / "results"
    assert tables(json.loads((results / f"{name}.json").read_text())) == (results / f"{name}.md").read_text()
