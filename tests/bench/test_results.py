"""Table, summary and figure of times that are made up."""

import copy

import matplotlib.image
import pytest

from contrast_arch.bench import results
from contrast_arch.bench.figure import draw


def network(name, step, inference=(0.5,), peak=None):
    counts = {"lq_64x64": 1_500_000_000, "output_1280x720": None}
    seconds = {"inference": list(inference), "step": list(step)}
    return {"name": name, "parameters": 1234567, "multiply_adds": counts, "peak_mib": peak, "seconds": seconds}


@pytest.fixture
def found():
    here = {"cpu": "A CPU", "threads": 2, "torch": "2", "python": "3"}
    setting = {"device": "cpu", "backend": "torch", "batch": 8, "patch": 64, "scale": 4, "rounds": 3, "published": True}
    found = {
        "machine": here,
        "setting": setting,
        "networks": [
            network("HATLight", (2.0, 2.0, 4.0), peak=1000.0),
            network("Half", (1.0, 1.0, 1.0), (0.1, 0.4, 0.2), peak=250.0),
            network("Failed", (), ()),
        ],
        "bases": ["HATLight"],
        "checks": [{"check": "c", "error": 0.0, "limit": 1.0, "passed": True}],
        "notes": ["Failed: MemoryError"],
    }
    found["summary"] = results.summary(found)
    return found


def test_summary(found):
    hat_light, half, failed = found["summary"]
    assert hat_light["iteration_over"] == {"HATLight": 1.0} and hat_light["peak_over"] == {"HATLight": 1.0}
    assert half["iteration_s"] == 1.0 and half["inference_s"] == 0.2
    assert half["iteration_over"] == {"HATLight": 0.5} and half["peak_over"] == {"HATLight": 0.25}
    assert half["epoch_min"] == pytest.approx(11_056 / 60)
    empty = {key: failed[key] for key in ("iteration_s", "epoch_min", "peak_mib", "inference_s")}
    assert set(empty.values()) == {None} and failed["iteration_over"] == failed["peak_over"] == {}


def test_report(found):
    text = results.report(found)
    assert "| HATLight | 1,234,567 | 1.50 |  | 2.000 | 1.00 | 368.5 | 1000 | 1.00 | 0.500 |" in text
    assert "| Half | 1,234,567 | 1.50 |  | 1.000 | 0.50 | 184.3 | 250 | 0.25 | 0.200 |" in text
    assert "| Failed | 1,234,567 | 1.50 |  |  |  |  |  |  |  |" in text
    assert "- Failed: MemoryError" in text and "1 of 1 checks passed" in text and ": the published setting" in text
    header, rule, *_ = (line for line in text.splitlines() if line.startswith("|"))
    assert header.count("|") == rule.count("|") == 11


def test_report_says_that_the_setting_is_another(found):
    found["setting"] |= {"batch": 1, "published": False}
    assert "1 LQ image of 64x64" in results.report(found) and "NOT the published setting" in results.report(found)


def test_report_without_a_base_has_no_ratios(found):
    found["bases"] = []
    found["summary"] = results.summary(found)
    assert "over HATLight" not in results.report(found)
    assert "| Half | 1,234,567 | 1.50 |  | 1.000 | 184.3 | 250 | 0.200 |" in results.report(found)


@pytest.mark.parametrize("bases", [["HATLight"], []])
def test_figure(found, bases, tmp_path):
    found["bases"] = bases
    assert draw(found, "title", tmp_path / "figure.png")
    image = matplotlib.image.imread(tmp_path / "figure.png")
    assert image.shape[1] > 1000 and image.std() > 0.1
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_nothing_measured_is_no_figure(found, tmp_path):
    found = copy.deepcopy(found) | {"networks": [network("Failed", (), ())], "bases": []}
    found["summary"] = results.summary(found)
    assert not draw(found, "title", tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())


def test_files_are_written_together(tmp_path):
    results.save(tmp_path / "new" / "bench", "text\n", {"a": [1.5, None]})
    assert (tmp_path / "new" / "bench.md").read_text() == "text\n"
    assert (tmp_path / "new" / "bench.json").read_text() == '{\n "a": [\n  1.5,\n  null\n ]\n}\n'
    assert len(list((tmp_path / "new").iterdir())) == 2
