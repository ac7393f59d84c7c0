"""Numbers that have to agree with each other, as BasicSR counts."""

import pytest
import torch

from tests.conftest import write_pairs
from tests.models.test_schedules import ContrastModel, SRModel, cosine, model_of, multi_step, rates


@pytest.mark.parametrize(
    "metric, border, fits, too_small, left, needed",
    [
        ("calculate_psnr", 40, (21, 21), (24, 20), "16x0", "1x1"),
        ("calculate_ssim", 4, (6, 5), (6, 4), "16x8", "11x11"),
        ("calculate_niqe", 0, (48, 24), (47, 24), "188x96", "192x96"),
    ],
)
def test_images_too_small_for_a_metric(check, root, metric, border, fits, too_small, left, needed):
    """BasicSR gives NaN for one and fails on the other, for the whole set."""
    edits = {f"datasets.train.dataroot_{key}": str(root / "train" / name) for key, name in (("gt", "HR"), ("lq", "LR"))}
    edits["val.metrics"] = {"m": {"type": metric, "crop_border": border, "test_y_channel": True}}
    if metric == "calculate_niqe":
        del edits["val.metrics"]["m"]["test_y_channel"]
    write_pairs(root / "train", count=2)
    write_pairs(root, count=2, lq=(60, 60))
    write_pairs(root, count=1, lq=fits)
    write_pairs(root / "small", count=1, lq=too_small)
    assert check(edits, only=("error",)) == []
    for folder, name in {"HR": "0.png", "LR": "0x4.png"}.items():
        (root / "small" / folder / name).replace(root / folder / name)
    assert check(edits, only=("error",)) == [
        f"error: val: metrics: m: crop_border: {border} leaves {left} pixels of {root / 'HR' / '0.png'} of datasets: "
        f"val; {metric} needs {needed}: leave out the image or the metric"
    ]


def test_images_without_gt_are_measured_at_the_size_of_the_result(check, root):
    """An LQ image of 8 pixels is one of 32 for the metric, so that a border of 4 leaves 24."""
    write_pairs(root / "small", count=1, lq=(80, 8))
    data = {"name": "a", "type": "SingleImageDataset", "io_backend": {"type": "disk"}, "dataroot_lq": "small/LR"}
    edits = {"datasets": {"test": data}, "val.metrics": {"niqe": {"type": "calculate_niqe", "crop_border": 4}}}
    (found,) = check(edits, is_train=False, only=("error",))
    assert "crop_border: 4 leaves 312x24 pixels of" in found


@pytest.mark.parametrize("periods, total", [([2, 1], 4), ([2], 3), ([2], 4)])
def test_periods_as_basicsr_reads_them(periods, total):
    """It takes the rate at 0, and after each iteration but the last; test_findings.py has what check says."""
    from basicsr.models.lr_scheduler import CosineAnnealingRestartLR

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = CosineAnnealingRestartLR(optimizer, periods, [1] * len(periods))
    fails = sum(periods) < total - 1
    try:
        for _ in range(total - 1):
            optimizer.step()
            scheduler.step()
    except TypeError:
        assert fails
    else:
        assert not fails


@pytest.mark.parametrize(
    "scheduler, warmup, found, expected",
    [
        (multi_step(), 2, "0.0005", "0.001"),
        (multi_step(1), 4, "0.00075", "0.0005"),
        (multi_step(5, restarts=[0, 4], restart_weights=[1, 1]), 3, "0.000666667", "0.001"),
        (multi_step(restarts=[0, 2], restart_weights=[1, 1]), 3, None, "0.001"),
        (multi_step(), 1, None, "0.001"),
        (cosine(8), 2, None, None),
    ],
)
def test_the_rate_after_a_warm_up(check, scheduler, warmup, found, expected):
    """As BasicSR's model and ContrastModel set it."""
    train = {"scheduler": scheduler, "warmup_iter": warmup, "total_iter": 8, "optim_g": {"type": "Adam", "lr": 1e-3}}
    own, basicsrs = (f"{rates(model_of(cls, train), 1, warmup)[-1]:.6g}" for cls in (ContrastModel, SRModel))
    assert basicsrs == (found or own) and own == (expected or own)
    edits = {f"train.{key}": value for key, value in train.items()}
    assert check(edits | {"model_type": "ContrastModel"}) == []
    messages = check(edits)
    if found is None:
        assert messages == []
        return
    text = f"warning: train: warmup_iter: {warmup}: after the warm-up BasicSR trains with a rate of {found}, not "
    assert messages == [f"{text}{expected}; write 'model_type: ContrastModel', or warmup_iter: -1"]


@pytest.mark.parametrize("ratio, accumulate, least", [(1, 1, 2), (3.5, 2, 4), (2, 1, None), (4, 2, None)])
def test_less_than_a_batch_of_all_processes(check, monkeypatch, ratio, accumulate, least):
    """Two images, and batches of two in two processes."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    edits = {"datasets.train.dataset_enlarge_ratio": ratio, "train.accumulate": accumulate}
    found = check(edits | {"model_type": "ContrastModel"}, launcher="pytorch", only=("error",))
    assert [text.rpartition(" ")[2] for text in found] == ([str(least)] if least else [])
    assert not found or f"are less than a batch of {4 * accumulate}; raise" in found[0]
