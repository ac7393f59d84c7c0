"""Runs read back from BasicSR's text logs, whole and damaged; single lines, and that parts of them say nothing."""

import math

import pytest

from contrast_arch.experiments.basicsr_logs import training_line
from contrast_arch.experiments.records import read_run
from tests.experiments.writing import OPTIONS, Start, changed, whole_run

LOSS, PSNR = "losses/l_pix", "metrics/Set5/psnr"
TRAINING = (
    "2025-01-01 00:00:00,123 INFO: [Contr..][epoch: 12, iter: 123,400, lr:(2.000e-04,1.000e-04,)] "
    "[eta: -1 day, 23:59:58, time (data): 0.353 (0.002)] l_pix: 1.2345e-02 l_percep: 6.0000e+00 out_d: 1.0000e-01 "
)
METRIC = "\t # psnr: 31.2345\tBest: 32.0000 @ 200 iter"


def test_whole_run(tmp_path):
    run = read_run(whole_run(tmp_path))
    assert run.notes == []
    assert list(run.values[LOSS]) == [10, 20, 30, 40, 50, 60]
    assert run.values[LOSS][30] == pytest.approx(3 / 40, rel=1e-7)
    assert run.interval_means(LOSS) == pytest.approx({20: 0.1, 40: 0.05, 60: 1 / 30}, rel=1e-4)
    # The last validation, which BasicSR counts as iteration 62, is that of the last iteration.
    assert run.values[PSNR] == pytest.approx({20: 30.2, 40: 30.4, 60: 30.6}, rel=1e-4)
    assert (run.network, run.parameters, run.finished) == ("Contrast", 1491300, True)
    assert (run.iterations, run.interval, run.images(60), run.iteration_seconds) == (60, 20, 240, [0.5] * 6)


def test_last_validation_off_the_checkpoints(tmp_path):
    start = Start(tmp_path, options=changed(OPTIONS, train__total_iter=55))
    for iteration in (20, 40):
        start.train({iteration - 10: 0.1, iteration: 0.1})
        start.validate(iteration, psnr=iteration / 2)
    start.train({50: 0.1})
    start.end(psnr=22.0)
    run = read_run(start.folder)
    assert (run.values[PSNR], run.iterations) == ({20: 10.0, 40: 20.0, 55: 22.0}, 55)


def test_data_parallel(tmp_path):
    """Without a launcher BasicSR counts its epochs for one GPU, and runs out of them before the last iteration."""
    start = Start(tmp_path, options=changed(OPTIONS, num_gpu=2, train__total_iter=600))
    start.train({10: 0.1, 20: 0.1, 30: 0.1})
    start.say("End of training. Time consumed: 0:00:10")
    start.validate(30, psnr=20.0)
    run = read_run(start.folder)
    assert run.values[PSNR] == {30: 20.0} and run.images(30) == 2 * 4 * 30


def test_validations_between_two_lines_of_training(tmp_path):
    start = Start(tmp_path, options=changed(OPTIONS, val__val_freq=4))
    for iteration in (4, 8):
        start.validate(iteration, psnr=float(iteration))
        start.validate(iteration, dataset="Set14", psnr=iteration + 0.5)
    start.train({10: 0.1})
    start.validate(12, psnr=12.0)
    values = read_run(start.folder).values
    assert values[PSNR] == {4: 4.0, 8: 8.0, 12: 12.0} and values["metrics/Set14/psnr"] == {4: 4.5, 8: 8.5}


def test_resumed_run(tmp_path):
    first = Start(tmp_path, time="000000")
    first.train({10: 1.0, 20: 1.0})
    first.validate(20, psnr=20.0)
    first.train({30: 9.0, 40: 9.0})
    first.validate(40, psnr=99.0)
    first.train({50: 9.0}, seconds=0.7)
    second = Start(tmp_path, start=20, time="010000")
    second.train({30: 2.0}, seconds=0.9)
    run = read_run(first.folder)
    # What the first start did after the state that the second went on from is void, also beyond the second's end.
    assert run.values == {LOSS: {10: 1.0, 20: 1.0, 30: 2.0}, PSNR: {20: 20.0}}
    assert run.interval_means(LOSS) == {20: 1.0}


def test_run_continued_beyond_its_end(tmp_path):
    folder = whole_run(tmp_path)
    second = Start(tmp_path, options=changed(OPTIONS, train__total_iter=80), start=60, time="010000")
    second.train({70: 0.1, 80: 0.1})
    second.end(psnr=31.0)
    run = read_run(folder)
    assert run.values[PSNR] == pytest.approx({20: 30.2, 40: 30.4, 60: 30.6, 80: 31.0}, rel=1e-4)
    assert run.iterations == 80


def test_images_by_the_batch_of_each_start(tmp_path):
    first = Start(tmp_path, world_size=2)
    first.train({10: 0.1, 20: 0.1, 30: 0.1})
    Start(tmp_path, start=20, time="010000").train({30: 0.1, 40: 0.1})
    run = read_run(first.folder)
    assert [run.images(i) for i in (10, 20, 30, 40)] == [80, 160, 200, 240]
    assert run.images_per_iteration == 4
    # The oldest log is gone.
    first.log.unlink()
    assert read_run(first.folder).images(30) == 120


def test_run_in_progress(tmp_path):
    start = Start(tmp_path)
    start.train({10: 0.1, 20: 0.3})
    start.validate(20, psnr=20.0)
    start.train({30: 0.5})
    whole = read_run(start.folder).values
    with start.log.open("a") as file:
        file.write("2025-01-01 00:00:00,123 INFO: [A..][epoch:  0, iter:      40, lr:(2.000e-04,)] [eta: 0:00:10, ti")
    run = read_run(start.folder)
    assert run.values == whole and not run.finished
    assert run.interval_means(LOSS) == pytest.approx({20: 0.2})


def test_options_are_those_of_the_run(tmp_path):
    """--force_yml changes the run, not the copy of the option file."""
    folder = whole_run(tmp_path, options=changed(OPTIONS, val__val_freq=30))
    (folder / "A.yml").write_text("network_g: {type: HATLight}")
    run = read_run(folder)
    assert (run.network, run.interval) == ("Contrast", 30)
    assert run.options["datasets"]["train"]["gt_size"] == 64 and run.options["train"]["optim_g"]["lr"] == 2e-4


def test_log_without_a_line_of_training(tmp_path):
    folder = whole_run(tmp_path)
    later = Start(tmp_path, start=40, time="010000")
    later.log.write_text(later.log.read_text().partition("Training statistics")[0])
    assert list(read_run(folder).values[LOSS]) == [10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("text", [None, "a: [", "- 1", "\x00"])
def test_empty_log_and_unreadable_option_file(tmp_path, text):
    folder = tmp_path / "experiments" / "A"
    folder.mkdir(parents=True)
    (folder / "train_A_20250101_000000.log").write_text("2025-01-01 00:00:0")
    if text:
        (folder / "A.yml").write_text(text)
    run = read_run(folder)
    assert (run.values, run.iterations, run.images_per_iteration) == ({}, 0, None)
    *unreadable, empty = run.notes
    assert empty == f"{folder}: no value in metrics.jsonl or train_*.log so far"
    assert len(unreadable) == bool(text) and all(note.startswith(str(folder / "A.yml")) for note in unreadable)


def test_no_validation(tmp_path):
    start = Start(tmp_path, options=changed(OPTIONS, val=None, train__total_iter=25))
    start.train({10: 0.1, 20: 0.3})
    start.end()
    run = read_run(start.folder)
    assert run.interval_means(LOSS) == pytest.approx({20: 0.2}) and run.iterations == 25
    assert run.metrics() == {} and run.notes == []


def test_losses_that_are_not_finite_and_iterations_beyond_a_thousand(tmp_path):
    start = Start(tmp_path, options=changed(OPTIONS, train__total_iter=5000))
    start.train({10: 0.1, 20: 0.3, 30: math.nan, 40: math.inf, 4990: 0.5, 5000: 0.25})
    run = read_run(start.folder)
    assert math.isnan(run.interval_means(LOSS)[40]) and run.values[LOSS][5000] == 0.25
    assert any("l_pix is not finite at iteration 30 (2 times)" in note for note in run.notes)


def test_training_line():
    expected = {"kind": "train", "iteration": 123400, "iteration_seconds": 0.353}
    expected["values"] = {"l_pix": 0.012345, "l_percep": 6.0}
    assert training_line(TRAINING) == training_line(TRAINING + "\n") == expected
    for value, loss in (("nan", math.nan), ("inf", math.inf), ("-1.5000e+00", -1.5)):
        line = training_line(TRAINING.replace("1.2345e-02", value))
        assert line["values"]["l_pix"] == pytest.approx(loss, nan_ok=True)
    for other in ("", "Start training from epoch: 0, iter: 0", "l_pix: 1.2345e-02", METRIC):
        assert training_line(other) is None


def test_lines_of_a_validation(tmp_path):
    """A value that is cut off says nothing, and neither do lines that only look like a validation's."""
    start = Start(tmp_path)
    start.train({20: 0.1})
    start.say("Number of val images/folders in Set5: 5\n type: Validation Set5\n\t # psnr: 31.0000")
    start.say(f"Validation Set 14\n{METRIC}\n\t # niqe: -1.0000\n\t # lpips: nan\n\t # ssim: 0.8")
    values = read_run(start.folder).values
    assert values.pop(LOSS) == {20: 0.1} and math.isnan(values.pop("metrics/Set 14/lpips")[20])
    assert values == {"metrics/Set 14/psnr": {20: 31.2345}, "metrics/Set 14/niqe": {20: -1.0}}
