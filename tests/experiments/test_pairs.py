"""Several seeds of a network, and differences by image with their intervals."""

import numpy as np
import pytest
import scipy.stats

from contrast_arch.experiments.pairs import difference_interval, pairwise, summaries
from contrast_arch.experiments.records import grouped, read_run
from tests.experiments.recording import Record, recorded_run
from tests.experiments.reports import Page, make, rows
from tests.experiments.writing import OPTIONS, changed

IMAGES = {"baby": 1.0, "bird": -0.5, "head": 0.25, "woman": -0.75}


def test_one_seed_is_the_paired_bootstrap_of_scipy():
    generator = np.random.default_rng(1)
    a, b = generator.normal(30, 2, (2, 1, 20))
    found = difference_interval(a, b)
    expected = scipy.stats.bootstrap((a - b), np.mean, method="percentile", n_resamples=10_000, rng=2)
    assert found[0] == pytest.approx((a - b).mean())
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert found[1] == pytest.approx(expected.confidence_interval.low, abs=0.03 * width)
    assert found[2] == pytest.approx(expected.confidence_interval.high, abs=0.03 * width)


def test_images_are_resampled_together_and_seeds_apart():
    images = np.array([[20.0, 30.0, 40.0]])
    # Images that are equally hard for both: only their difference counts.
    assert difference_interval(images + 0.5, images) == pytest.approx((0.5, 0.5, 0.5))
    # Seeds 0 and 1 of a, resampled: means 0, 0.5 and 1 with probabilities 1/4, 1/2 and 1/4.
    a = images + np.array([[0.0], [1.0]])
    assert difference_interval(a, images) == pytest.approx((0.5, 0.0, 1.0))
    # The seeds of b by themselves: from -1 to 1 (1/16 each), where paired seeds would leave no difference at all.
    assert difference_interval(a, a) == pytest.approx((0.0, -1.0, 1.0))
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
    psnr = "30.90 (30.60 to 31.20)"
    assert table[2].startswith(f"| Contrast (Contrast) | 3 | - | {psnr} | {psnr} | 0.8600 (0.8600 to 0.8600) |")
    assert table[2].endswith("| 240 (finished) | 0.01 (0.01 to 0.01) | 0.500 (0.500 to 0.500) | 300 (300 to 300) |")
    assert table[3].startswith("| HATLight (HATLight) | 1 | - | 29.60 | 29.60 | 0.8600 |")
    psnr = Page(out).curves("validation_Set5-0")
    assert psnr["Contrast"]["y"] == pytest.approx([30.5, 30.7, 30.9])
    assert psnr["Contrast"]["low"] == pytest.approx([30.2, 30.4, 30.6])
    assert psnr["Contrast"]["high"] == pytest.approx([30.8, 31.0, 31.2])
    assert psnr["HATLight"]["low"] == []
    (line,) = rows(out / "differences.csv")
    assert [line[key] for key in ("networks", "validation set", "after images", "ahead in PSNR")] == [
        *("Contrast - HATLight", "Set5", "240", "Contrast"),
    ]
    # Images do not differ between the networks; the lowest seed alone, and the highest, are drawn once in 27 times.
    assert [float(line[f"PSNR difference{key}"]) for key in ("", " low", " high")] == pytest.approx([1.3, 1.0, 1.6])
    assert "the interval excludes zero for 1 of 1 pairs: Contrast ahead of HATLight." in text
    assert "| +1.300 (+1.000 to +1.600) | +0.00000 (+0.00000 to +0.00000) | Contrast | 240 |" in text
    assert "its bootstrap interval of 95 %" in text and "its bootstrap interval of 95 %" in Page(out).text


def test_an_interval_that_includes_zero_is_said_in_words(tmp_path):
    folders = seeds_of(tmp_path, "Contrast", (30.0, 30.4))
    folders += seeds_of(tmp_path, "HATLight", (30.1, 30.2), {**IMAGES, "baby": 1.5, "bird": -1.5})
    groups = grouped([read_run(folder) for folder in folders])
    ((difference,), notes) = pairwise(groups)
    assert notes == []
    # -0.05 + mean of (-0.5, 1.0, 0, 0) + 0.1 between the means of the seeds
    assert difference.intervals["psnr"][0] == pytest.approx(0.05 + 0.125)
    assert difference.ordered is None
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
    groups = grouped([read_run(first), read_run(record.folder)])
    ((difference,), _) = pairwise(groups)
    assert difference.images == 160
    assert difference.intervals["psnr"][0] == pytest.approx(30.4 - 49.0)


def test_a_seed_that_is_behind_is_left_out_of_the_mean(tmp_path, capsys):
    folders = seeds_of(tmp_path, "Contrast", (30.0, 31.0))
    record = Record(tmp_path, "Contrast_seed2")
    record.start()
    record.train(20, 0.1)
    record.validate(20, psnr=25.0)
    out = make(tmp_path, *folders, record.folder)
    assert Page(out).curves("validation_Set5-0")["Contrast"]["y"] == pytest.approx([30.7, 30.9, 31.1])
    assert f"{record.folder}: 80 training images, where other seeds have 240; left out" in capsys.readouterr().out
    assert rows(out / "summary.csv")[0]["seeds"] == "2"
