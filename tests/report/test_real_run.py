"""A run of the trainer itself, resumed: what BasicSR really writes is what the report reads."""

import csv
import io

import pytest

from contrast_arch import report
from contrast_arch.report.events import read_events
from contrast_arch.report.records import read_experiment
from tests.conftest import run_module, tiny_options, write_pairs
from tests.report.writing import event_files

LOSS, PSNR = "losses/l_pix", "metrics/val/psnr"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four iterations, then from the checkpoint after the second on to the fifth."""
    root = tmp_path_factory.mktemp("run")
    write_pairs(root)
    options = tiny_options(root, logger={"use_tb_logger": True})
    assert run_module("contrast_arch.train", options, root).returncode == 0
    (root / "experiments" / "tiny" / "training_states" / "4.state").unlink()
    options["train"]["total_iter"] = 5
    assert run_module("contrast_arch.train", options, root, "--auto_resume").returncode == 0
    return root


def test_values_are_those_of_the_events(root):
    experiment = read_experiment(root / "experiments" / "tiny")
    first, second = (read_events(path).values for path in event_files(root, "tiny"))
    assert list(experiment.values[LOSS]) == [1, 2, 3, 4, 5]
    for iteration, value in experiment.values[LOSS].items():
        assert value == (first if iteration <= 2 else second)[LOSS][iteration]
    last = max(second[PSNR])
    assert last > 5
    assert experiment.values[PSNR] == {2: first[PSNR][2], 4: second[PSNR][4], 5: second[PSNR][last]}
    assert experiment.interval_means(LOSS) == {
        2: pytest.approx((first[LOSS][1] + first[LOSS][2]) / 2),
        4: pytest.approx((second[LOSS][3] + second[LOSS][4]) / 2),
    }


def test_text_logs_say_the_same(root, monkeypatch):
    experiment = read_experiment(root / "experiments" / "tiny")
    monkeypatch.setattr("contrast_arch.report.records.available", lambda: False)
    text = read_experiment(root / "experiments" / "tiny")
    assert text.values.keys() == experiment.values.keys()
    for tag, points in experiment.values.items():
        digits = {"rel": 1e-4} if tag == LOSS else {"abs": 6e-5}
        assert text.values[tag] == pytest.approx(points, **digits)


def test_facts(root):
    experiment = read_experiment(root / "experiments" / "tiny")
    assert experiment.network == "Contrast"
    assert experiment.parameters > 1000
    assert experiment.seconds > 0
    assert experiment.memory.mib > 50
    assert (experiment.memory.kind, experiment.memory.device) == ("resident", "CPU")
    assert experiment.finished
    assert (experiment.iterations, experiment.images(5), experiment.interval) == (5, 10, 2)
    assert experiment.options["train"]["total_iter"] == 5


def test_report(root, capsys):
    report.run([root / "experiments" / "tiny"], root / "out")
    (line,) = csv.DictReader(io.StringIO((root / "out" / "summary.csv").read_text()))
    assert (line["experiment"], line["images"], line["val_psnr_last_images"]) == ("tiny", "10", "10")
    (note,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert "iteration 5 ends no checkpoint interval (2 iterations); what comes after iteration 4 is left out" in note
