"""The benchmark scripts run from end to end; what they measure here is not looked at."""

import json
import os

import pytest

from tests.conftest import ROOT, run_python


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
    assert {row["core"] for row in found["core"]} >= {"triton", "torch"}
    assert "| Contrast | bf16 | eager |" in (tmp_path / "dry.md").read_text()


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="looks at what happens without")
def test_gpu_benchmark_wants_a_gpu(tmp_path):
    result = run_python(tmp_path, str(ROOT / "benchmarks" / "gpu.py"))
    assert result.returncode == 2 and "PyTorch finds no GPU; --dry-run checks the script without one" in result.stderr
    assert not list(tmp_path.iterdir())
