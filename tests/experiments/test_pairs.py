"""Several seeds of a network, differences by image with their intervals, and pictures of validations."""

import sys

import cv2
import numpy as np
import pytest
import scipy.stats
from basicsr.metrics import calculate_psnr

from contrast_arch.experiments.groups import grouped
from contrast_arch.experiments.pairs import difference_interval, in_words, pairwise, summaries
from contrast_arch.experiments.pictures import image_values, measured_iterations, read
from contrast_arch.experiments.records import read_run
from tests.conftest import write_pairs
from tests.experiments.recording import Record, recorded_run
from tests.experiments.reports import Page, make, rows
from tests.experiments.writing import OPTIONS, changed, whole_run

IMAGES = {"baby": 1.0, "bird": -0.5, "head": 0.25, "woman": -0.75}


def test_one_seed_is_the_paired_bootstrap_of_scipy():
    generator = np.random.default_rng(1)
    a, b = generator.normal(30, 2, (2, 1, 20))
    found = difference_interval(a, b)
    expected = scipy.stats.bootstrap((a - b), np.mean, method="percentile", n_resamples=10_000, rng=2)
    assert found.difference == pytest.approx((a - b).mean())
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.03 * width)


def test_images_are_resampled_together_and_seeds_apart():
    images = np.array([[20.0, 30.0, 40.0]])
    # Images that are equally hard for both: only their difference counts.
    assert difference_interval(images + 0.5, images) == pytest.approx((0.5, 0.5, 0.5))
    # Seeds 0 and 1 of a, resampled: means 0, 0.5 and 1 with probabilities 1/4, 1/2 and 1/4.
    a = images + np.array([[0.0], [1.0]])
    assert difference_interval(a, images) == pytest.approx((0.5, 0.0, 1.0))
    # The seeds of b by themselves: from -1 to 1 (1/16 each), where paired seeds would leave no difference at all.
    assert difference_interval(a, a) == pytest.approx((0.0, -1.0, 1.0))
    assert difference_interval(a, a).includes_zero and not difference_interval(images + 0.5, images).includes_zero
    assert difference_interval(a, images) == difference_interval(a, images)


def seeds_of(root, network, means, images=IMAGES):
    folders = []
    for seed, mean in enumerate(means):
        options = changed(OPTIONS, network_g={"type": network}, manual_seed=seed)
        folders.append(recorded_run(root, f"{network}_seed{seed}", mean, images, options))
    return folders


def test_mean_and_range_over_seeds(tmp_path):
    folders = seeds_of(tmp_path, "Contrast", (30.0, 30.3, 30.6)) + seeds_of(tmp_path, "HATLight", (29.0,))
    out = make(tmp_path, *folders)
    text = (out / "report.md").read_text()
    table = text.partition("## Networks\n\n")[2].partition("\n\n")[0].splitlines()
    assert table[2].startswith(
        "| Contrast (Contrast) | 3 | - | 30.90 (30.60 to 31.20) | 0.8600 (0.8600 to 0.8600) | 240 |"
    )
    assert table[2].endswith("| 0.500 (0.500 to 0.500) | 300 (300 to 300) |")
    assert table[3].startswith("| HATLight (HATLight) | 1 | - | 29.60 | 0.8600 | 240 |")
    psnr = Page(out).curves("validation_Set5-0")
    assert psnr["Contrast"]["y"] == pytest.approx([30.5, 30.7, 30.9])
    assert psnr["Contrast"]["low"] == pytest.approx([30.2, 30.4, 30.6])
    assert psnr["Contrast"]["high"] == pytest.approx([30.8, 31.0, 31.2])
    assert psnr["HATLight"]["low"] == []
    (line,) = (line for line in rows(out / "differences.csv") if line["metric"] == "psnr")
    assert [line[key] for key in ("set", "a", "b", "seeds_a", "seeds_b", "images", "pictures")] == [
        *("Set5", "Contrast", "HATLight", "3", "1", "240", "4"),
    ]
    # Images do not differ between the networks; the lowest seed alone, and the highest, are drawn once in 27 times.
    assert [float(line[key]) for key in ("difference", "low", "high")] == pytest.approx([1.3, 1.0, 1.6])
    assert "the interval excludes zero for 1 of 1 pairs: Contrast ahead of HATLight." in text
    assert "| Contrast ahead of HATLight by 1.30 dB | 240 |" in text
    assert "Resampled are the images" in text and "Resampled are the images" in Page(out).text


def test_an_interval_that_includes_zero_is_said_in_words(tmp_path):
    folders = seeds_of(tmp_path, "Contrast", (30.0, 30.4))
    folders += seeds_of(tmp_path, "HATLight", (30.1, 30.2), {**IMAGES, "baby": 1.5, "bird": -1.5})
    groups, _ = grouped([read_run(folder) for folder in folders])
    ((difference,), notes) = pairwise(groups)
    assert notes == []
    # -0.05 + mean of (-0.5, 1.0, 0, 0) + 0.1 between the means of the seeds
    assert difference.intervals["psnr"].difference == pytest.approx(0.05 + 0.125)
    assert difference.intervals["psnr"].includes_zero
    assert in_words(difference, "psnr") == "not decided: the interval includes zero"
    (summary,) = summaries([difference])
    assert summary.startswith("Set5, PSNR after 240 training images: the interval excludes zero for 0 of 1 pairs. For")
    assert summary.endswith("For the others it includes zero: they are not decided.")


def test_networks_are_compared_after_equally_many_images(tmp_path):
    """The second network has twice the batch, and is validated after 80, 160, 240 images at other iterations."""
    first = recorded_run(tmp_path, "A", 30.0, IMAGES)
    record = Record(tmp_path, "B")
    record.start(batch=8)
    record.train(30, 0.1)
    for iteration in (10, 20, 25):
        values = {name: {"psnr": 29.0 + more + iteration, "ssim": 0.5} for name, more in IMAGES.items()}
        record.validate(iteration, per_image=values, psnr=29.0 + iteration, ssim=0.5)
    groups, _ = grouped([read_run(first), read_run(record.folder)])
    ((difference,), _) = pairwise(groups)
    assert difference.images == 160
    assert difference.intervals["psnr"].difference == pytest.approx(30.4 - 49.0)


def test_a_seed_that_is_behind_is_left_out_of_the_mean(tmp_path, capsys):
    folders = seeds_of(tmp_path, "Contrast", (30.0, 31.0))
    record = Record(tmp_path, "Contrast_seed2")
    record.start()
    record.train(20, 0.1)
    record.validate(20, psnr=25.0)
    out = make(tmp_path, *folders, record.folder)
    assert Page(out).curves("validation_Set5-0")["Contrast"]["y"] == pytest.approx([30.7, 30.9, 31.1])
    assert f"{record.folder}: 80 training images, where other seeds have 240; left out" in capsys.readouterr().out
    assert [line["experiment"] for line in rows(out / "summary.csv")][2] == "Contrast seed 2"


@pytest.fixture
def validated(tmp_path):
    return tmp_path, with_pictures(tmp_path)


def with_pictures(tmp_path):
    """Two networks whose validations kept pictures: the GT with noise."""
    write_pairs(tmp_path, count=2, lq=(12, 10))
    # A row and a column that the network's result does not have.
    large = cv2.copyMakeBorder(cv2.imread(str(tmp_path / "HR" / "0.png")), 0, 3, 0, 2, cv2.BORDER_REPLICATE)
    cv2.imwrite(str(tmp_path / "HR" / "0.png"), large)
    dataset = {"name": "Set5", "dataroot_gt": str(tmp_path / "HR"), "dataroot_lq": str(tmp_path / "LR")}
    options = changed(OPTIONS, datasets__val_1={**dataset, "filename_tmpl": "{}x4"})
    generator = np.random.default_rng(0)
    folders = []
    for name, noise, psnr in (("A", 4.0, 31.0), ("B", 16.0, 30.0)):
        folder = whole_run(tmp_path, name, psnr, options=options)
        for image in ("0", "1"):
            gt = cv2.imread(str(tmp_path / "HR" / f"{image}.png"))[:40, :48]
            place = folder / "visualization" / f"{image}x4"
            place.mkdir(parents=True)
            for iteration in (20, 40, 62):  # BasicSR counts on after the last iteration
                noisy = np.clip(gt + generator.normal(0, noise, gt.shape), 0, 255).round()
                cv2.imwrite(str(place / f"{image}x4_{iteration}.png"), noisy)
            (place / f"{image}x4_notes.png").touch()
        folders.append(folder)
    return folders


def test_metrics_of_an_image_come_from_its_picture(validated):
    root, (folder, _) = validated
    for name in ("HR/2.png", "LR/2x4.png"):  # in the folders, but not validated
        (root / name).write_bytes((root / name.replace("2", "1", 1)).read_bytes())
    run = read_run(folder)
    assert measured_iterations(run, "Set5") == {20, 40, 60}
    found = image_values(run, "Set5", 60)
    assert list(found) == ["0x4", "1x4"]
    picture = cv2.imread(str(folder / "visualization" / "0x4" / "0x4_62.png"))
    gt = cv2.imread(str(root / "HR" / "0.png"))[:40, :48]
    assert found["0x4"] == {"psnr": pytest.approx(calculate_psnr(picture, gt, crop_border=4))}


def test_pictures_side_by_side(validated):
    root, folders = validated
    out = make(root, *folders)
    first, second = Page(out).data["slides"]
    assert (first["label"], second["label"]) == ("Set5: 0x4", "Set5: 1x4")
    assert [label for label, *_ in first["layers"]] == ["LQ", "bicubic", "A", "B", "GT"]
    shapes = [cv2.imread(str(out / file)).shape for *_, file in first["layers"]]
    assert shapes == [(10, 12, 3), *[(40, 48, 3)] * 4]
    picture = cv2.imread(str(folders[0] / "visualization" / "1x4" / "1x4_62.png"))
    assert (cv2.imread(str(out / second["layers"][2][2])) == picture).all()
    gt = cv2.imread(str(root / "HR" / "1.png"))
    psnr = calculate_psnr(picture, gt, crop_border=4)
    assert second["layers"][2][1] == f"PSNR {psnr:.2f} after 240 images"
    (line,) = rows(out / "differences.csv")
    assert (line["a"], line["b"], line["pictures"]) == ("A", "B", "2") and float(line["low"]) > 8
    # A second report replaces pictures too.
    make(root, folders[0])
    assert not (out / "differences.csv").exists()


def test_a_picture_that_cannot_be_used_is_left_out(validated, capsys):
    """One of a run in progress is half written; one of the data is not as large any more."""
    root, folders = validated
    picture = folders[1] / "visualization" / "0x4" / "0x4_62.png"
    picture.write_bytes(picture.read_bytes()[:200])
    out = make(root, *folders)
    printed = capsys.readouterr().out
    assert "no picture of 0x4 (Set5): one of its files cannot be used: " in printed
    assert [slide["label"] for slide in Page(out).data["slides"]] == ["Set5: 1x4"]
    assert [line["pictures"] for line in rows(out / "differences.csv")] == ["1"]
    gt = root / "HR" / "1.png"
    cv2.imwrite(str(gt), cv2.imread(str(gt))[:32])
    read.cache_clear()
    make(root, *folders)
    printed = capsys.readouterr().out
    assert "cannot be used: its shape is (40, 48, 3), that of the GT image (32, 48, 3)" in printed
    assert "no difference by image of A and B on Set5" in printed


def test_pictures_without_basicsr(validated, monkeypatch, capsys):
    root, folders = validated
    for name in ("basicsr.metrics", "basicsr.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    assert Page(make(root, *folders)).data["slides"] == []
    printed = capsys.readouterr().out
    assert "no differences by image: measuring pictures needs basicsr.utils, which is not installed" in printed
    assert "no pictures: reading them needs basicsr." in printed


def test_images_that_are_not_in_folders_are_left_out(tmp_path, capsys):
    out = make(tmp_path, whole_run(tmp_path), whole_run(tmp_path, "B"))
    assert Page(out).data["slides"] == []
    assert "no difference by image of A and B on Set5: no validation of both" in capsys.readouterr().out
