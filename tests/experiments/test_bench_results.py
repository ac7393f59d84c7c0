"""Tables of times that are made up."""

import pytest

from contrast_arch.experiments import markdown
from contrast_arch.experiments.bench import command


@pytest.fixture
def found():
    names = ("HATLight", "Half", "Failed")
    steps = dict(zip(names, ([2.0, 2.0, 4.0], [1.0, 1.0, 1.0], []), strict=True))
    inferences = dict(zip(names, ([0.5] * 3, [0.1, 0.4, 0.2], []), strict=True))
    return {
        "machine": {"cpu": "A CPU", "threads": 2, "torch": "2", "python": "3", "numba": "1", "gpu": "G", "cuda": "13"},
        "setting": {"device": "cpu", "scale": 4, "tf32": {"convolutions": True}},
        "size": 64,
        "base": "HATLight",
        "thousands": dict(zip(names, (1717.524, 1234.4, 1.0), strict=True)),
        "multiply_adds": {name: None if name == "Failed" else 1_500_000_000 for name in names},
        "psnr": {"Half": {"Set5": 28.746}},
        "seconds": {"8": {"inference": inferences, "step": steps}},
        "peak_mib": {"8": {"HATLight": 1000.0, "Half": 250.0, "Failed": None}},
        "sizes": [],
        "core": [],
        "checks": [{"check": "c", "error": 0.0, "limit": 1.0, "passed": True}],
        "notes": ["Failed: MemoryError"],
    }


def test_one_table(found):
    """Ratios of times are medians within a round; unknown figures are empty; columns without any are left out."""
    text = command.tables(found)
    assert "Batch 8, median (lowest to highest) of 3 rounds:" in text and "1 of 1 checks passed." in text
    assert text.endswith("\nFailed: MemoryError\n")
    header, _, hat_light, half, failed = (line for line in text.splitlines() if line.startswith("|"))
    assert header == (
        "| network | parameters | G multiply-adds, 1280x720 output | inference, s | "
        "over HATLight | training step, s | over HATLight | peak of a step | PSNR on Set5 |"
    )
    times = "0.500 (0.500 to 0.500) | 1.00 | 2.000 (2.000 to 4.000) | 1.00"
    assert hat_light == f"| HATLight | 1718K | 1.50 | {times} | 1000 MiB (1.00) |  |"
    times = "0.200 (0.100 to 0.400) | 0.40 | 1.000 (1.000 to 1.000) | 0.50"
    assert half == f"| Half | 1234K | 1.50 | {times} | 250 MiB (0.25) | 28.75 |"
    assert failed == "| Failed | 1K |  |  |  |  |  |  |  |"
    found["setting"]["device"] = "cuda:0"
    text = command.tables(found)
    assert text.startswith("G, CUDA 13, torch 2,") and "float32 (TF32 in convolutions)" in text
    assert "| 1.000 (1.000 to 1.000) | 0.50 | 184.3 | 250 MiB (0.25) |" in text
    found |= {"base": None, "psnr": {}, "multiply_adds": {}, "setting": {**found["setting"], "device": "cpu"}}
    assert "| Half | 1234K | 0.200 (0.100 to 0.400) | 1.000 (1.000 to 1.000) | 250 MiB |\n" in command.tables(found)


def test_sizes_and_the_core(found):
    found["sizes"] = [{"size": 256, "seconds": 3.276_8, "peak_mib": 187.6}]
    found["core"] = [{"threads": 2, "batch": 8, "backend": "torch", "forward_ms": 91.14, "both_ms": 249.5}]
    text = command.tables(found)
    assert "| LQ | s | µs a pixel | peak |\n|---|---|---|---|\n| 256x256 | 3.28 | 50.0 | 188 MiB |\n" in text
    assert "| 2 | 8 | torch | 91.1 | 249.5 |\n" in text


def test_markdown_and_its_figures(tmp_path):
    assert markdown.table(["a"], [["b|c"]]) == ["| a |", "|---|", r"| b\|c |"]
    markdown.save(tmp_path / "new" / "bench", "text\n", {"a": [1.5, None]})
    assert (tmp_path / "new" / "bench.md").read_text() == "text\n"
    assert (tmp_path / "new" / "bench.json").read_text() == '{\n "a": [\n  1.5,\n  null\n ]\n}\n'
    assert len(list((tmp_path / "new").iterdir())) == 2
