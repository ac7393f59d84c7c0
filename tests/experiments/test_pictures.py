"""Pictures of validations, side by side."""

import sys

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_psnr

from tests.conftest import write_pairs
from tests.experiments.recording import recorded_run
from tests.experiments.reports import Page, make
from tests.experiments.writing import OPTIONS, changed, whole_run


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
        folder = recorded_run(tmp_path, name, psnr, {"0x4": 1.0, "1x4": 2.0}, options)
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
    bicubic = cv2.imread(str(out / second["layers"][1][2]))
    psnr = calculate_psnr(bicubic, gt, crop_border=4)
    assert [text for _, text, _ in second["layers"][1:4]] == [
        f"PSNR {psnr:.2f}",
        "PSNR 33.60, SSIM 0.8000 after 240 images",
        "PSNR 32.60, SSIM 0.8000 after 240 images",
    ]


def test_a_picture_that_cannot_be_used_is_left_out(validated, capsys):
    """One of a run in progress is half written; one of the data is not as large any more."""
    root, folders = validated
    picture = folders[1] / "visualization" / "0x4" / "0x4_62.png"
    picture.write_bytes(picture.read_bytes()[:200])
    gt = root / "HR" / "1.png"
    cv2.imwrite(str(gt), cv2.imread(str(gt))[:32])
    assert Page(make(root, *folders)).data["slides"] == []
    printed = capsys.readouterr().out
    assert "no picture of 0x4 (Set5): one of its files cannot be used: " in printed
    assert "cannot be used: the GT image has the shape (32, 48, 3), expected (40, 48, 3)" in printed


def test_pictures_without_basicsr(validated, monkeypatch, capsys):
    root, folders = validated
    for name in ("basicsr.metrics", "basicsr.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    assert Page(make(root, *folders)).data["slides"] == []
    printed = capsys.readouterr().out
    assert "no pictures: reading them needs basicsr." in printed


def test_images_that_are_not_here_are_noted_where_validations_saved_any(tmp_path, capsys):
    folder = whole_run(tmp_path)
    assert Page(make(tmp_path, folder)).data["slides"] == [] and "picture" not in capsys.readouterr().out
    (folder / "visualization").mkdir()
    assert Page(make(tmp_path, folder)).data["slides"] == []
    note = "no pictures of Set5: its dataroot_gt and dataroot_lq are no folders here"
    assert f"note: {note}\n" in capsys.readouterr().out
