"""Numbers that have to agree with each other, as BasicSR counts."""

import math

import pytest
import torch
import yaml

from contrast_arch.check import RunContext, find_problems
from tests.conftest import tiny_options, write_pairs
from tests.models.test_schedules import ContrastModel, SRModel, cosine, model_of, multi_step, rates


@pytest.mark.parametrize(
    "metric, border, fits, too_small, left, needed",
    [
        ("calculate_psnr", 40, (21, 21), (24, 20), "16x0", "1x1"),
        ("calculate_ssim", 4, (6, 5), (6, 4), "16x8", "11x11"),
        ("calculate_niqe", 0, (48, 24), (47, 24), "188x96", "192x96 or 96x192"),
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
        f"val, and {metric} needs at least {needed}: leave the image out, or the metric, or write the scale"
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
    "scheduler, warmup, found, expected, until",
    [
        (multi_step(), 2, "0.0005", "0.001", "to the end"),
        (multi_step(1), 4, "0.00075", "0.0005", "to the end"),
        (multi_step(5, restarts=[0, 4], restart_weights=[1, 1]), 3, "0.000666667", "0.001", "until its restart at 4"),
        (multi_step(restarts=[0, 2], restart_weights=[1, 1]), 3, None, "0.001", None),
        (multi_step(), 1, None, "0.001", None),
        (cosine(8), 2, None, None, None),
    ],
)
def test_the_rate_after_a_warm_up(check, scheduler, warmup, found, expected, until):
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
    start = f"warning: train: warmup_iter: {warmup}: after the warm-up SRModel trains with a rate of {found}, not "
    start += f"{expected}, {until}: BasicSR's schedule goes on from the last"
    assert len(messages) == 1 and messages[0].startswith(start)
    assert f"'model_type: ContrastModel' takes {expected}; or write warmup_iter: -1" in messages[0]


@pytest.mark.parametrize(
    "model, batch, processes, accumulate, fitting",
    [
        ("SRModel", 8, None, 1, 6000),
        ("SRModel", 8, 4, 1, 1500),
        ("SRModel", 7, None, 1, 6857),
        ("ContrastModel", 4, 3, 2, 2000),
        ("SRModel", 4, 3, 2, 4000),  # which has no accumulate
    ],
)
def test_images_between_checkpoints(root, model, batch, processes, accumulate, fitting):
    options = tiny_options(root, model_type=model, train={"total_iter": 10_000, "accumulate": accumulate})
    options["datasets"]["train"] |= {"batch_size_per_gpu": batch, "dataset_enlarge_ratio": 1000}

    def intervals(freq):
        options["val"]["val_freq"] = options["logger"]["save_checkpoint_freq"] = freq
        (root / "options.yml").write_text(yaml.safe_dump(options))
        problems = find_problems("options.yml", RunContext(True, launched=False, processes=processes))
        found = [(p.severity, p.path, p.message.partition("not the ")[2]) for p in problems]
        return [finding for finding in found if "published comparison" in finding[2]]

    assert intervals(fitting) == []
    end = f"48,000 of the published comparison; {fitting} would be"
    assert intervals(10) == [
        ("warning", path, end) for path in (("logger", "save_checkpoint_freq"), ("val", "val_freq"))
    ]


def test_less_than_a_batch_a_process(check):
    (found,) = check({"datasets.train.dataset_enlarge_ratio": 1}, processes=2, launched=False, only=("error",))
    assert "are 1 a process, less than a batch of 2" in found and "raise dataset_enlarge_ratio to 2" in found


def basicsr_ends_after(images, batch, total):
    """Iterations of BasicSR's loops over epochs and batches."""
    epochs = math.ceil(total / math.ceil(images / batch)) + 1
    return min(total, epochs * (images // batch))


@pytest.mark.parametrize("batch, ratio, total", [(3, 2, 40), (3, 2, 4), (4, 2, 100), (3, 7, 100), (2, 1, 7)])
def test_where_basicsrs_trainer_ends(check, batch, ratio, total):
    end = basicsr_ends_after(2 * ratio, batch, total)
    edits = {"datasets.train.batch_size_per_gpu": batch, "datasets.train.dataset_enlarge_ratio": ratio}

    def ends(model_type="SRModel", **context):
        found = check(edits | {"train.total_iter": total, "model_type": model_type}, only=("warning",), **context)
        return [message.split(";")[0].split("ends ")[1] for message in found if "training ends" in message]

    expected = [f"after iteration {end} of {total}"] if end < total else []
    assert ends(trainer="basicsr") == ends("ContrastModel", trainer="basicsr") == expected
    assert ends() == []
