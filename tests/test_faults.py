"""benchmarks/faults.py in short: kills at random moments, and a disk that runs full."""

import importlib
import json

import cv2
import pytest

from contrast_arch.prepare import run as prepare
from contrast_arch.prepare.plan import make_settings
from tests.conftest import ROOT, SET5


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("faults")


@pytest.fixture
def images(tmp_path):
    """Parts of photographs, prepared as users do it."""
    (tmp_path / "photographs").mkdir()
    for path in (SET5 / "HR").glob("*.png"):
        cv2.imwrite(str(tmp_path / "photographs" / path.name), cv2.imread(str(path))[40:136, 60:172])
    prepare([tmp_path / "photographs"], tmp_path / "images", make_settings([4], "training", 64, None, None), 1)
    return tmp_path / "images"


def test_killed_and_resumed(faults, images, tmp_path):
    found = faults.kills(tmp_path, images, count=2, iterations=80, seconds=2, seed=1)
    assert found["exit_code"] == 0 and found["weights_equal"]
    assert found["kills"] == 2 and found["killed_in_training"] >= 1 and found["files_read"] > 0


def test_full_disk(faults, images, tmp_path):
    # Room for the three states that are kept and the one being written, 500 KB each with its checkpoint.
    found = faults.full_disk(tmp_path, images, iterations=40, kib=2400)
    if found is None:
        pytest.skip("no small disk can be mounted here")
    assert found["saves_that_failed"] > 0 and found["files_read"] > 0
    assert found["exit_code"] == 1 and "net_g_latest.pth could not be written" in found["message"]
    assert found["exit_code_with_room"] == 0 and found["weights_equal"]


def test_the_committed_table_is_that_of_the_committed_figures(faults):
    found = json.loads((ROOT / "benchmarks" / "results" / "faults.json").read_text())
    assert faults.held(found) and found["kills"]["kills"] >= 50
    text = (ROOT / "benchmarks" / "results" / "faults.md").read_text()
    assert faults.markdown(found) == text
    assert (
        f"<!-- benchmarks/results/faults.md -->\n{text}<!-- end -->" in (ROOT / "docs" / "reliability.md").read_text()
    )
