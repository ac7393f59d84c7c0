"""The benchmark scripts run from end to end; what they measure here is not looked at."""

import importlib
import json
from functools import partial

import pytest
import torch

import contrast_arch.archs.contrast_arch as archs
from tests.conftest import ROOT, run_python, write_pairs


def test_gpu_benchmark_runs_dry(tmp_path, monkeypatch):
    """Under Triton's interpreter on the CPU, in a process of its own that starts with it: checks pass, rows come."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    networks = ("HAT (upstream)", "Contrast")
    script = str(ROOT / "benchmarks" / "gpu.py")
    settings = "--networks", *networks, "--modes", "eager", "--precisions", "bf16", "--output", ".", "--name", "dry"
    result = run_python(tmp_path, script, "--dry-run", *settings)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "dry.json").read_text())
    assert len(found["checks"]) == 9 and all(check["passed"] for check in found["checks"])
    assert {row["network"] for row in found["steps"]} == set(networks)
    assert all(f"{network}, bf16, eager: " in result.stdout for network in networks)
    assert {row["backend"] for row in found["core"]} >= {"cuda", "torch"}
    assert "| Contrast | bf16 | eager |" in (tmp_path / "dry.md").read_text()


@pytest.fixture
def gpu(monkeypatch):
    """The script, and a run of it on the CPU with two networks."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("gpu")
    run = script.GpuRun(torch.device("cpu"), patch=4, rounds=1, batch=1, deadline=float("inf"))
    sizes = {"dims": 6, "depths": [1], "num_heads": [2], "window_size": 4}
    return script, run, {name: partial(getattr(archs, name), **sizes) for name in ("Contrast", "MambaLight")}


def test_gpu_benchmark_goes_on_where_memory_does_not_suffice(gpu):
    """The next network is measured, and each row is there before the next network is built."""
    script, run, builders = gpu
    built = []

    def build(name):
        built.append(name)
        if name == "HATLight":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return builders[name]()

    names = ("HATLight", *builders)
    rows = script.time_steps(run, {name: partial(build, name) for name in names}, ["fp32"], ["eager"])
    assert next(rows)["network"] == "Contrast" and "MambaLight" not in built
    assert run.notes == ["HATLight, fp32, eager: OutOfMemoryError: CUDA out of memory"]
    assert [row["network"] for row in rows] == ["MambaLight"]


def test_gpu_benchmark_compiles_every_network(gpu, monkeypatch):
    """Networks share code, and PyTorch has a limit for how often it compiles code anew."""
    script, run, builders = gpu
    compiled = []

    def backend(graph, inputs):
        compiled[-1] += 1
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, mode: compiled.append(0) or compile_(net, backend=backend))
    with torch._dynamo.config.patch(recompile_limit=1):
        again = dict.fromkeys(("Contrast", "again"), builders["Contrast"])
        rows = list(script.time_steps(run, again, ["fp32"], ["compiled"]))
    assert len(rows) == len(compiled) == 2 and all(compiled), run.notes


def test_gpu_benchmark_repeats_with_deterministic_algorithms(gpu, monkeypatch):
    script, run, builders = gpu
    algorithms = []
    monkeypatch.setattr(
        script.Step, "step", lambda self: (algorithms.append(torch.are_deterministic_algorithms_enabled()), step(self))
    )
    step = script.Trial.step
    (row,) = script.time_steps(run, {"Contrast": builders["Contrast"]}, ["fp32", "bf16"], ["deterministic"])
    assert (row["precision"], row["mode"]) == ("fp32", "deterministic")
    assert run.checks[0]["check"] == "the same bits in a second run, Contrast, fp32, deterministic"
    assert all(check["passed"] for check in run.checks)
    assert algorithms == [False] * script.CHECKED_STEPS + [True] * 7


def test_gpu_benchmark_captures_upstream_hat_last(gpu):
    script, *_ = gpu
    order = list(script.parts(["bf16", "fp32"], ["reduce-overhead", "graph", "eager"], [script.BASE, "Contrast"]))
    assert order[::2] == [
        ("eager", "fp32", script.BASE),
        ("eager", "bf16", script.BASE),
        ("graph", "fp32", "Contrast"),
        ("graph", "bf16", "Contrast"),
        ("reduce-overhead", "bf16", "Contrast"),
        ("reduce-overhead", "fp32", "Contrast"),
    ]


def test_gpu_benchmark_copies_no_mask_of_upstream_hat(gpu, monkeypatch):
    """Captured, with its mask computed once, it gives what it gives otherwise."""
    pytest.importorskip("spandrel")
    script, run, _ = gpu
    run.patch = 10
    build = partial(script.upstream_hat, dims=30, depths=(2,), heads=(6,), window_size=4)
    plain, captured = (script.Step(run, build, "fp32", mode) for mode in ("eager", "graph"))
    expected = plain.output()
    monkeypatch.setattr(type(captured.net), "calculate_mask", None)
    assert torch.equal(captured.output(), expected)


def test_gpu_benchmark_wants_a_gpu(gpu, monkeypatch, capsys):
    script, *_ = gpu
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "PyTorch finds no GPU; --dry-run checks the script without one" in capsys.readouterr().err


def test_tiles_benchmark_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    write_pairs(tmp_path / "Small", count=1, lq=(37, 21))
    name = "ContrastNoPE_ssm_ratio2_light_SRx4"
    arguments = ["--images", str(tmp_path / "Small" / "HR"), "--tiles", "32/16", "48/0", "--name", "t", "--threads"]
    arguments += [str(torch.get_num_threads()), "--output", str(tmp_path), "--networks", name]
    monkeypatch.setattr("sys.argv", ["tiles.py", *arguments])
    importlib.import_module("tiles").main()
    found = json.loads((tmp_path / "t.json").read_text())
    assert (found["folder"], found["images"]) == ("Small", 1)
    tiles = found["networks"][name]["tiles"]
    assert tiles["48/0"] is None and tiles["32/16"]["largest"] > tiles["32/16"]["mean"] > 0
    assert f"| {name} | 32/16 | 1 |" in (tmp_path / "t.md").read_text()


def test_load_finds_a_leak(monkeypatch):
    """Memory of 100 MiB and 2 more in 100,000 iterations, files that are opened and closed, threads that stay."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    load = importlib.import_module("load")
    samples = [[i, 100 + i / 50_000, 10 + i // 1000 % 2, 2, 50, i / 1000, 0] for i in range(0, 200_001, 500)]
    found = load.figures(samples, 200_000)
    memory = found["memory, MiB"]
    assert memory["slope"] == pytest.approx(2) and memory["largest"] == 104
    assert memory["medians"] == pytest.approx([100.4, 102, 103.9], abs=0.01)
    assert abs(found["open files"]["slope"]) < 0.1 and found["threads"]["slope"] == pytest.approx(0, abs=1e-9)
    text = load.tables(
        {"machine": {"cpu": "C", "torch": "T"}, "iterations": 9, "seconds": 60, "samples": 7, "figures": found}
    )
    assert "| memory, MiB | 100 | 102 | 104 | 104 | +2.0 |" in text


@pytest.mark.parametrize(
    "name", ["cpu", "tiles", "ablation", "shares", "upscale", "many_images", "imports", "onnx", "load"]
)
def test_the_committed_table_is_that_of_the_committed_figures(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = {"cpu": "contrast_arch.experiments.bench.command", "onnx": "deployment"}.get(name, name)
    if name == "onnx":
        pytest.importorskip("onnxruntime")
    results = ROOT / "benchmarks" / "results"
    found = json.loads((results / f"{name}.json").read_text())
    assert importlib.import_module(script).tables(found) == (results / f"{name}.md").read_text()
