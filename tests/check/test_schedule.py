"""Numbers that have to agree with each other."""

import math
from pathlib import Path

import pytest
import yaml

from contrast_arch.check import RunContext, find_problems
from tests.conftest import tiny_options, write_pairs

COSINE = {"type": "CosineAnnealingRestartLR", "restart_weights": [1], "eta_min": 0}


def cosine(periods):
    def change(options):
        options["train"]["scheduler"] = {**COSINE, "periods": periods}

    return change


def of_training(**keys):
    return lambda options: options["datasets"]["train"].update(keys)


def messages(found, severity):
    return [message for kind, message in found if kind == severity]


def test_sizes(check):
    assert check(of_training(gt_size=30)) == [
        ("error", "datasets: train: gt_size: 30 is not a multiple of scale: 4"),
    ]
    assert check(of_training(gt_size=40)) == [
        (
            "warning",
            "datasets: train: gt_size: 40 is 10 LQ pixels, no multiple of window_size 4: the network pads every patch; "
            "32 or 48 would fit",
        )
    ]


def test_crop_border(check):
    def border(size):
        return lambda options: options["val"]["metrics"]["psnr"].update(crop_border=size)

    where = "val: metrics: psnr: crop_border"
    (found,) = check(border(2))
    assert found == ("warning", f"{where}: 2 is not the scale, 4, as is usual: the figures will not compare")
    (found,) = check(border(40))
    image = Path("HR", "0.png").resolve()
    text = f"40 leaves 16x0 pixels of {image} of datasets: val, and calculate_psnr needs at least 1x1"
    assert found == ("error", f"{where}: {text}: leave the image out, or the metric, or write the scale")


@pytest.mark.parametrize(
    "metric, border, fits, too_small, left, needed",
    [
        ("calculate_ssim", 4, (6, 5), (6, 4), "16x8", "11x11"),
        ("calculate_niqe", 0, (48, 24), (47, 24), "188x96", "192x96 or 96x192"),
    ],
)
def test_images_too_small_for_a_metric(check, root, metric, border, fits, too_small, left, needed):
    """BasicSR gives NaN for one and fails on the other, for the whole set."""

    def change(options):
        options["datasets"]["train"]["dataroot_gt"] = str(root / "train" / "HR")
        options["datasets"]["train"]["dataroot_lq"] = str(root / "train" / "LR")
        options["val"]["metrics"] = {"m": {"type": metric, "crop_border": border}}

    def errors():
        return [message for severity, message in check(change) if severity == "error"]

    write_pairs(root / "train", count=2)
    write_pairs(root, count=2, lq=(60, 60))
    write_pairs(root, count=1, lq=fits)
    write_pairs(root / "small", count=1, lq=too_small)
    assert errors() == []
    for folder, name in {"HR": "0.png", "LR": "0x4.png"}.items():
        (root / "small" / folder / name).replace(root / folder / name)
    assert errors() == [
        f"val: metrics: m: crop_border: {border} leaves {left} pixels of {root / 'HR' / '0.png'} of datasets: val, and "
        f"{metric} needs at least {needed}: leave the image out, or the metric, or write the scale"
    ]


def test_images_without_gt_are_measured_at_the_size_of_the_result(check, root):
    """An LQ image of 8 pixels is one of 32 for the metric, so that a border of 4 leaves 24."""
    write_pairs(root / "small", count=1, lq=(80, 8))

    def change(options):
        options["datasets"] = {"test": {"name": "a", "type": "SingleImageDataset", "io_backend": {"type": "disk"}}}
        options["datasets"]["test"]["dataroot_lq"] = str(root / "small" / "LR")
        options["val"]["metrics"] = {"niqe": {"type": "calculate_niqe", "crop_border": 4}}

    found = [message for severity, message in check(change, is_train=False) if severity == "error"]
    assert len(found) == 1 and "crop_border: 4 leaves 312x24 pixels of" in found[0]


@pytest.mark.parametrize(
    "periods, severity, message",
    [
        ([2, 1], None, None),  # the rate of iteration 4 is that at 3
        ([4], None, None),
        ([2], "error", "[2] end after 2 of 4 iterations, where BasicSR fails"),
        ([9], "warning", "[9] are 9 iterations, total_iter: 4; the rate does not come down to eta_min"),
    ],
)
def test_periods(check, periods, severity, message):
    def change(options):
        cosine(periods)(options)
        options["train"]["scheduler"]["restart_weights"] = [1] * len(periods)

    found = check(change)
    assert [kind for kind, _ in found] == ([severity] if severity else [])
    assert message is None or message in found[0][1]


@pytest.mark.parametrize("periods, total", [([2, 1], 4), ([2], 3), ([2], 4)])
def test_periods_as_basicsr_reads_them(periods, total):
    """It takes the rate at 0, and after each iteration but the last."""
    import torch
    from basicsr.models.lr_scheduler import CosineAnnealingRestartLR

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = CosineAnnealingRestartLR(optimizer, periods, [1] * len(periods))
    fails = sum(periods) < total - 1
    try:
        for _ in range(total - 1):
            scheduler.step()
    except TypeError:
        assert fails
    else:
        assert not fails


def test_iterations(check):
    train = {"scheduler": {"type": "MultiStepLR", "milestones": [3, 4, 9]}, "warmup_iter": 4}
    assert check(train=train) == [
        ("warning", "train: scheduler: milestones: [4, 9] are not reached in total_iter: 4 iterations"),
        ("warning", "train: warmup_iter: 4: with total_iter: 4 the rate never becomes that of optim_g"),
    ]
    (found,) = check(logger={"save_checkpoint_freq": 5})
    assert "save_checkpoint_freq: 5 is not reached in total_iter: 4 iterations: no state is saved" in found[1]


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
        return [problem for problem in problems if "published comparison" in problem.message]

    assert intervals(fitting) == []
    found = intervals(10)
    assert [problem.path for problem in found] == [("logger", "save_checkpoint_freq"), ("val", "val_freq")]
    for problem in found:
        assert problem.severity == "warning"
        assert problem.message.endswith(f"not the 48,000 of the published comparison; {fitting} would be")


def test_less_than_a_batch(check):
    """The last batch of an epoch is left out, and it is the only one."""
    change = of_training(batch_size_per_gpu=8, dataset_enlarge_ratio=3)
    assert messages(check(change), "error") == [
        "datasets: train: batch_size_per_gpu: 2 images (dataset_enlarge_ratio 3) are 6 a process, less than a batch "
        "of 8: nothing would be trained; raise dataset_enlarge_ratio to 4"
    ]
    found = messages(check(of_training(dataset_enlarge_ratio=1), processes=2, launched=False), "error")
    assert "are 1 a process, less than a batch of 2" in found[0] and "raise dataset_enlarge_ratio to 2" in found[0]
    assert "images an epoch; expected at most 1e+08" in check(of_training(dataset_enlarge_ratio=10**9))[0][1]


def basicsr_ends_after(images, batch, total):
    """Iterations of BasicSR's loops over epochs and batches."""
    done = 0
    for _ in range(math.ceil(total / math.ceil(images / batch)) + 1):
        for _ in range(images // batch):
            if done == total:
                return done
            done += 1
    return done


@pytest.mark.parametrize("batch, ratio, total", [(3, 2, 40), (3, 2, 4), (4, 2, 100), (3, 7, 100), (2, 1, 7)])
def test_where_basicsrs_trainer_ends(check, batch, ratio, total):
    end = basicsr_ends_after(2 * ratio, batch, total)

    def ends(**context):
        change = of_training(batch_size_per_gpu=batch, dataset_enlarge_ratio=ratio)
        found = messages(check(change, train={"total_iter": total}, **context), "warning")
        return [message for message in found if "training ends" in message]

    for model_type in ("SRModel", "ContrastModel"):
        found = ends(trainer="basicsr", model_type=model_type)
        assert len(found) == (end < total)
        assert all(f"training ends after iteration {end} of {total};" in message for message in found)
    assert ends() == []


def test_validation_and_logs(check):
    def without_val_data(options):
        del options["datasets"]["val"]

    assert check(without_val_data) == [("warning", "val: datasets has no entry 'val': nothing is validated")]
    assert check(val=None) == [("warning", "datasets: val: without a section 'val' nothing is validated")]
    found = check(logger={"wandb": {"project": "p"}})
    assert ("error", "logger: wandb: project: needs use_tb_logger: true; BasicSR sends that on") in found
    found = check(lambda options: options["val"].pop("suffix"), is_train=False, val={"save_img": True})
    assert ("error", "val: no suffix, which save_img: true needs; write 'suffix: ~' for none") in found


def test_tiles(check):
    def tile(**keys):
        return {"change": lambda options: options["val"].update(tile=keys), "model_type": "ContrastModel"}

    assert check(**tile(size=16, overlap=8)) == []
    assert check(**tile(size=18, overlap=2)) == [
        ("error", "val: tile: size: 18 is not a multiple of the network's window_size 4"),
        ("error", "val: tile: overlap: 2 is not a multiple of the network's window_size 4"),
    ]
    assert check(**tile(size=16, overlap=12)) == [
        ("error", "val: tile: overlap: 12: expected at most half of size: 16")
    ]
    assert check(**tile(overlap=4))[0][1].startswith("val: tile: {'overlap': 4}: expected a size, such as")
