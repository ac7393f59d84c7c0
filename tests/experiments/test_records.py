"""Runs read back from metrics.jsonl, whole, resumed and damaged."""

import pytest

from contrast_arch.experiments.records import read_run
from tests.experiments.recording import Record, recorded_run
from tests.experiments.writing import OPTIONS, Start, changed, whole_run

LOSS, PSNR = "losses/l_pix", "metrics/Set5/psnr"


def resumed_record(root):
    """60 iterations at batch 4; the second piece goes on from iteration 40 at batch 2, an hour later."""
    record = Record(root)
    record.start()
    for iteration in (10, 20, 30, 40, 50):
        record.train(iteration, l_pix=9.0 if iteration > 40 else 1.0)
    record.validate(40, psnr=29.0)
    record.validate(50, psnr=99.0)
    record.start(40, time=4600.0, batch=2, resumed=True)
    record.train(50, l_pix=2.0, memory=500 << 20)
    record.train(60, l_pix=3.0)
    record.validate(60, psnr=30.0)
    record.save(60)
    return record


def test_whole_run(tmp_path):
    run = read_run(recorded_run(tmp_path))
    assert run.notes == []
    assert run.values[LOSS] == {10: 3 / 20, 20: 1 / 20, 30: 3 / 40, 40: 1 / 40, 50: 3 / 60, 60: 1 / 60}
    assert run.values[PSNR] == pytest.approx({20: 30.2, 40: 30.4, 60: 30.6})
    assert run.interval_means(LOSS) == pytest.approx({20: 0.1, 40: 0.05, 60: 1 / 30})
    assert (run.finished, run.iterations, run.images(60), run.interval) == (True, 60, 240, 20)
    assert (run.iteration_seconds, run.memory) == ([0.5] * 6, 300)
    assert (run.hours(0), run.hours(15), run.hours(60)) == pytest.approx((0, 7.5 / 3600, 30 / 3600))
    assert run.best_and_last("Set5", "psnr") == ((60, pytest.approx(30.6)), (60, pytest.approx(30.6)))


def test_of_an_iteration_that_occurs_twice_the_later_line_counts(tmp_path):
    record = resumed_record(tmp_path)
    run = read_run(record.folder)
    assert run.values[LOSS] == {10: 1.0, 20: 1.0, 30: 1.0, 40: 1.0, 50: 2.0, 60: 3.0}
    assert run.values[PSNR] == {40: 29.0, 60: 30.0}
    assert [run.images(i) for i in (40, 50, 60)] == [160, 180, 200]
    # 40 iterations of the first piece and 20 of the second, without the hour between them.
    assert (run.hours(40), run.hours(60)) == pytest.approx((20 / 3600, 30 / 3600))
    assert run.memory == 500
    # Only the last weights end a training.
    assert not run.finished
    record.save(60, "latest")
    assert read_run(record.folder).finished


def test_what_a_later_piece_has_not_reached_again_does_not_count(tmp_path):
    record = Record(tmp_path)
    record.start()
    record.train(10, 1.0)
    record.train(50, 9.0)
    record.start(10, time=4600.0, resumed=True)
    record.train(20, 2.0)
    assert read_run(record.folder).values[LOSS] == {10: 1.0, 20: 2.0}
    record.start(0, time=9000.0)
    assert read_run(record.folder).values == {}


def test_a_torn_last_line_is_ignored_and_a_broken_one_named(tmp_path):
    record = Record(tmp_path)
    record.start()
    record.train(10, 1.0)
    with record.path.open("a") as file:
        file.write('{"kind": "train", "time": 12, "iteration": 2\n{"kind": "later", "time": 1, "iteration": 10}\n')
    record.train(20, 0.5)
    with record.path.open("a") as file:
        file.write('{"kind": "train", "time": 12, "iterat')
    run = read_run(record.folder)
    assert run.values[LOSS] == {10: 1.0, 20: 0.5}
    assert [note for note in run.notes if "jsonl" in note] == [
        f"{record.path}:3: not a line of a record; passed over",
    ]


def test_problems_are_notes_also_before_the_first_start(tmp_path):
    record = Record(tmp_path)
    record.add("problem", 0, 1.0, message="passed over: a state")
    record.start()
    record.add("problem", 12, 2.0, message="a.png cannot be read")
    assert read_run(record.folder).notes[:2] == [
        f"{record.path}:1: iteration 0: passed over: a state",
        f"{record.path}:3: iteration 12: a.png cannot be read",
    ]


def test_losses_that_are_not_finite(tmp_path):
    record = Record(tmp_path)
    record.start()
    record.train(10, float("nan"))
    (note,) = read_run(record.folder).notes
    assert note == f"{record.folder}: losses/l_pix is not finite at iteration 10 (1 times)"


def test_values_of_single_images(tmp_path):
    per_image = {"baby": 1.0, "bird": -1.0}
    run = read_run(recorded_run(tmp_path, per_image=per_image))
    assert list(run.per_image["Set5"]) == [20, 40, 60]
    assert run.per_image["Set5"][60] == {
        "baby": {"psnr": pytest.approx(31.6), "ssim": 0.8},
        "bird": {"psnr": pytest.approx(29.6), "ssim": 0.8},
    }


def test_options_and_parameters_come_from_the_log_of_the_same_start(tmp_path):
    """--force_yml changes the run, not the copy of the option file; the record has no options."""
    first = Start(tmp_path, options=changed(OPTIONS, val__val_freq=30))
    later = Start(tmp_path, options=changed(OPTIONS, val__val_freq=15), start=60, time="120000")
    record = Record(tmp_path)
    began = read_run(first.folder).starts[0][2]
    record.start(time=began + 5)
    record.train(30, 1.0)
    record.save(60, "latest")
    record.start(60, time=began + 12 * 3600 + 5, total=80, resumed=True)
    run = read_run(first.folder)
    assert (run.interval, run.parameters, run.iterations) == (15, 1491300, 30)
    finished = read_run(first.folder, finished=True)
    assert (finished.interval, finished.finished, len(finished.starts)) == (30, True, 1)
    assert later.folder == first.folder


def test_an_empty_record_leaves_the_text_logs(tmp_path):
    folder = whole_run(tmp_path)
    (folder / "metrics.jsonl").write_text("")
    assert read_run(folder).values[PSNR] == {20: 30.2, 40: 30.4, 60: 30.6}
