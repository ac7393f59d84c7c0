"""benchmarks/faults.py in short: a run of some of its cases, and its counts."""

import importlib
import json
import os
import shutil
import sys
from argparse import Namespace
from collections import Counter

import pytest
import torch

from tests.conftest import ROOT, run_python


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("faults")


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="needs Linux and gcc")
def test_hit_and_resumed(tmp_path):
    """Each of them resumes with the weights of an undisturbed run, and ends in a line."""
    full = "|full disk" if os.geteuid() == 0 else ""
    cases = rf"^(SIGKILL, saving|disk errors from then on|flipped bit{full}).* SRModel, 1 x 1 "
    script = str(ROOT / "benchmarks" / "faults.py")
    result = run_python(tmp_path, script, "--only", cases, "--hits", "1", "--output", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "faults.json").read_text())
    assert len(found["cases"]) == 3 + bool(full)
    for name, counts in found["cases"].items():
        assert counts["hits"] >= 1 and counts["files"] > 0 and counts["equal"] == counts["runs"] > 0, name


def test_results_add_up(faults, tmp_path):
    class Laboratory:
        def run(self, case, seed):
            asked.append((case.goal, seed))
            return Counter(runs=1, hits=8, starts=9, files=20, equal=1, lost=2.0, most_lost=9.0 - seed), []

    asked, args = [], Namespace(output=tmp_path, name="faults", minutes=1, only="SIGKILL, s.* SRModel, 1 x 1", hits=9)
    faults.add_up(Laboratory(), args)
    args.hits = 17
    found = faults.add_up(Laboratory(), args)
    assert [seed for _, seed in asked] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(found["cases"]) == 3 and [part["runs"] for part in found["parts"]] == [6, 3]
    expected = {"runs": 3, "hits": 24, "starts": 27, "files": 60, "equal": 3, "lost": 6.0, "most_lost": 9.0}
    assert all(counts == expected | {"writing": 0, "bad": 0} for counts in found["cases"].values())
    text = (tmp_path / "faults.md").read_text()
    assert text.startswith("72 kills and 0 other hits of 9 runs") and faults.held(found)
    assert "| SIGKILL | saving, fork | 1 x 1 | 0 + 24 | 0 | 60 | 0 | 0.2, 9.0 | 3 of 3 |" in text
    found["problems"].append("a traceback")
    assert not faults.held(found)


def test_a_difference_is_found(faults):
    state = {"a": [torch.ones(2), {"b": 1}], "contrast_arch": 1}
    assert faults.difference(state, state | {"contrast_arch": 2}) is None
    assert faults.difference(state, {"a": [torch.tensor([1, 1 + 2**-23]), {"b": 1}], "contrast_arch": 1}) == ".a.0"
    assert faults.difference(state, {"a": [torch.ones(2), {"b": 1.0}], "contrast_arch": 1}) == ".a.1.b: 1, 1.0"


def test_the_committed_table_is_that_of_the_committed_figures(faults):
    found = json.loads((ROOT / "benchmarks" / "results" / "faults.json").read_text())
    text = (ROOT / "benchmarks" / "results" / "faults.md").read_text()
    assert faults.held(found) and faults.markdown(found) == text
    assert sum(counts["hits"] for name, counts in found["cases"].items() if name.startswith("SIGKILL")) >= 60
