"""Lines of BasicSR's log: what they say, and that parts of them say nothing."""

import math

import pytest

from contrast_arch.report.lines import (
    Memory,
    MetricLine,
    TrainingLine,
    memory_line,
    metric_line,
    training_line,
    validation_line,
)

TRAINING = (
    "2025-01-01 00:00:00,123 INFO: [Contr..][epoch: 12, iter: 123,400, lr:(2.000e-04,1.000e-04,)] "
    "[eta: -1 day, 23:59:58, time (data): 0.353 (0.002)] l_pix: 1.2345e-02 l_percep: 6.0000e+00 out_d: 1.0000e-01 "
)
METRIC = "\t # psnr: 31.2345\tBest: 32.0000 @ 200 iter"


def test_training_line():
    expected = TrainingLine(123400, 0.353, {"l_pix": 0.012345, "l_percep": 6.0})
    assert training_line(TRAINING) == training_line(TRAINING + "\n") == expected


@pytest.mark.parametrize("value, expected", [("nan", math.nan), ("inf", math.inf), ("-1.5000e+00", -1.5)])
def test_training_line_odd_losses(value, expected):
    line = training_line(TRAINING.replace("1.2345e-02", value))
    assert line.losses["l_pix"] == pytest.approx(expected, nan_ok=True)


def test_training_line_cut_off_says_nothing_wrong():
    end = TRAINING.index(" l_percep")
    for length in range(len(TRAINING)):
        line = training_line(TRAINING[:length])
        if length < end:
            assert line is None, TRAINING[:length]
        elif line:
            assert TRAINING[:length].rstrip().endswith(("e-02", "e+00", "e-01"))
            assert line.losses.items() <= training_line(TRAINING).losses.items()


@pytest.mark.parametrize("line", ["", "Start training from epoch: 0, iter: 0", "l_pix: 1.2345e-02", METRIC])
def test_no_training_line(line):
    assert training_line(line) is None


def test_validation_line():
    assert validation_line("2025-01-01 00:00:00,123 INFO: Validation Set 14\n") == "Set 14"
    assert validation_line("Validation Set5") == "Set5"
    assert validation_line("INFO: Number of val images/folders in Set5: 5") is None
    assert validation_line("  type: Validation Set5") is None


def test_metric_line():
    assert metric_line(METRIC) == metric_line("\t # psnr: 31.2345\n") == MetricLine("psnr", 31.2345)
    assert math.isnan(metric_line("\t # psnr: nan").value)
    assert metric_line("\t # niqe: -1.0000") == MetricLine("niqe", -1.0)
    for cut in ("\t # psnr: ", "\t # psnr: 31.2", "\t # ", METRIC[: METRIC.index("Best") + 3]):
        assert metric_line(cut) is None, cut


def test_memory_line():
    assert memory_line("INFO: Peak memory: 1234 MiB (resident, CPU)\n") == Memory(1234, "resident", "CPU")
    assert memory_line("Peak memory: 12,345 MiB (allocated, GPU)") == Memory(12345, "allocated", "GPU")
    assert memory_line("Peak memory: 1234 MiB (resident") is None
    assert memory_line("Peak memory: not known") is None
