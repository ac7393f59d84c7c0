"""Folders, lists, and pairs of images."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset
from PIL import ExifTags, Image, ImageOps

from contrast_arch import images
from contrast_arch.check.context import Section
from contrast_arch.check.data import Images, find_images, look_at
from tests.check.conftest import ABSENT
from tests.conftest import write_pairs


def of(phase, **keys):
    return {f"datasets.{phase}.{key}": value for key, value in keys.items()}


def test_names_that_do_not_pair(check, root):
    """As BasicSR refuses them."""
    (root / "LR" / "1x4.png").rename(root / "LR" / "1x2.png")
    start, folders = "error: datasets: val: dataroot_lq:", f"({root}/LR, {root}/HR)"
    assert f"{start} 1x4.png is not in lq_paths. {folders}" in check()
    (root / "LR" / "1x2.png").unlink()
    assert f"{start} lq and gt datasets have different number of images: 1, 2. {folders}" in check()


def test_sizes_that_do_not_pair(check, root):
    write_pairs(root, count=7)
    for number in range(6):
        Image.new("RGB", (23, 20)).save(root / "LR" / f"{number}x4.png")
    (root / "LR" / "6x4.png").write_bytes(b"no image")
    found = check(only=("error",))
    assert len(found) == 2  # of training and of validation
    lines = found[0].splitlines()
    assert lines[0] == "error: datasets: train: dataroot_lq: LQ and GT do not fit"
    assert lines[1] == (f"  {root}/LR/0x4.png is 23x20, so at scale 4 {root}/HR/0.png must be 92x80, not 96x80")
    assert len(lines) == 7 and lines[6] == "  ... and 2 more"


def test_a_test_without_gt_and_scale(check, root):
    data = {"name": "a", "type": "SingleImageDataset", "io_backend": {"type": "disk"}, "dataroot_lq": "LR"}
    edits = {"datasets": {"test": data}, "scale": ABSENT, "val.metrics": None}
    assert check(edits, is_train=False, only=("error",)) == []
    (root / "LR" / "0x4.png").write_bytes(b"no image")
    (found,) = check(edits, is_train=False, only=("error",))
    assert found.startswith("error: datasets: test: dataroot_lq: images do not fit\n  LR/0x4.png: cannot be read as an")


def test_every_image_is_read_completely_if_asked(check, root):
    """Headers of truncated and of corrupt files are as they should be."""
    for name, keep in (("0.png", 0.5), ("1.png", None)):
        content = bytearray((root / "HR" / name).read_bytes())
        if keep is None:
            content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
        else:
            del content[int(len(content) * keep) :]
        (root / "HR" / name).write_bytes(content)
    assert check() == []
    found = check(every_pair=True)
    assert len(found) == 2
    for name in ("0.png", "1.png"):
        assert f"{root}/HR/{name}: cannot be read as an image completely: " in found[0]


@pytest.fixture
def problems(tmp_path):
    """Function that writes a validation pair 0.SUFFIX and 0x4.SUFFIX and returns its problems."""

    def find(suffix, gt, lq, every, gt_keys=None, lq_keys=None):
        dataset = {"type": "PairedImageDataset", "io_backend": {"type": "disk"}, "filename_tmpl": "{}x4", "scale": 4}
        dataset |= {"phase": "val", "dataroot_gt": str(tmp_path / "HR"), "dataroot_lq": str(tmp_path / "LR")}
        for folder, name, image, keys in (("HR", "0", gt, gt_keys), ("LR", "0x4", lq, lq_keys)):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
            (tmp_path / folder).mkdir()
            path = tmp_path / folder / f"{name}.{suffix}"
            if isinstance(image, bytes):
                path.write_bytes(image)
            else:
                # An ICO of Pillow 12 has sizes from 16 on, unless they are given.
                image.save(path, **(keys or {"sizes": [image.size]}))
        found = find_images(Section(dataset), PairedImageDataset)
        look_at(dataset, found, every)
        return found.problems

    return find


def noise(mode="RGB", size=(48, 32)):
    return Image.effect_noise(size, 50).convert(mode)


@pytest.mark.parametrize("every_pair", [False, True])
@pytest.mark.parametrize("suffix, mode", [("tga", "RGB"), ("ico", "RGBA"), ("tif", "F"), ("pfm", "F")])
def test_images_that_pillow_reads_and_the_run_does_not(problems, tmp_path, every_pair, suffix, mode):
    """The dataset of the run gives no image of them either, and does not name them."""
    from basicsr.data import build_dataset

    (found,) = problems(suffix, noise(mode), noise(mode, (12, 8)), every_pair)
    how = " completely" if every_pair else ""
    assert found == (
        f"{tmp_path}/LR/0x4.{suffix}: cannot be read as an image{how}: OpenCV, which BasicSR reads with, cannot decode "
        "it; store it as PNG"
    )
    options = {"dataroot_gt": f"{tmp_path}/HR", "dataroot_lq": f"{tmp_path}/LR", "filename_tmpl": "{}x4", "scale": 4}
    options |= {"name": "a", "type": "PairedImageDataset", "io_backend": {"type": "disk"}, "phase": "val"}
    with pytest.raises((AttributeError, IndexError)):
        build_dataset(options)[0]


@pytest.mark.parametrize("every_pair", [False, True])
def test_images_that_the_run_reads_and_pillow_does_not(problems, every_pair):
    """Radiance HDR."""
    gt, lq = (cv2.imencode(".hdr", np.ones((*size, 3), np.float32))[1].tobytes() for size in ((32, 48), (8, 12)))
    assert problems("hdr", gt, lq, every_pair) == []
    assert "0x4.hdr is 48x32, so at scale 4" in problems("hdr", gt, gt, every_pair)[0]


@pytest.mark.parametrize("suffix, every_pair", [("png", False), ("png", True), ("jpg", False), ("tif", False)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_exif_orientations(check, root, suffix, every_pair, orientation):
    """GT is read turned: LQ of GT as it is shown fits, and LQ of GT as it is stored only where the sizes are equal."""
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    for folder in ("HR", "LR"):
        (root / "turned" / folder).mkdir(parents=True)
    stored = noise(size=(96, 64))
    stored.save(root / "turned" / "HR" / f"0.{suffix}", exif=tags)
    with Image.open(root / "turned" / "HR" / f"0.{suffix}") as image:
        shown = ImageOps.exif_transpose(image)
    edits = of("val", dataroot_gt="turned/HR", dataroot_lq="turned/LR")
    for lq in (shown, stored):
        small = lq.resize([side // 4 for side in lq.size])
        small.save(root / "turned" / "LR" / f"0x4.{suffix}")
        found = check(edits, every_pair=every_pair)
        fits, warning = small.size == (shown.width // 4, shown.height // 4), "1 with an EXIF orientation, by which"
        assert any("must be 96x64, not 64x96; OpenCV turns images by their EXIF" in text for text in found) != fits
        assert any(warning in text for text in found) == (orientation != 1)


@pytest.fixture
def latin1(tmp_path):
    """A name in Latin-1, as Python reads it; at the first image that is saved OpenCV would end the process."""
    name = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / name).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    return name


@pytest.mark.parametrize("is_train", [True, False])
def test_file_names_that_are_not_utf8(check, root, latin1, is_train):
    (root / "LR" / "0x4.png").rename(root / "LR" / f"{latin1}x4.png")
    (root / "HR" / "0.png").rename(root / "HR" / f"{latin1}.png")
    assert check({"val.save_img": False}, is_train, only=("error",)) == []
    phases = ["val"] if is_train else ["train", "val"]  # BasicSR tests on train too
    found = check({"val.save_img": True}, is_train, only=("error",))
    expected = (
        ": dataroot_lq: file names, or a working directory, not in UTF-8; rename them, or write val: save_img: "
        "false\n  "
        f"{root}/LR/caf\\udce9x4.png"
    )
    assert found == [f"error: datasets: {phase}{expected}" for phase in phases]


def test_a_working_directory_that_is_not_utf8(check, root, latin1, monkeypatch):
    monkeypatch.chdir(root / latin1)
    Path("options.yml").symlink_to(root / "options.yml")
    assert check() == []
    (found,) = check({"val.save_img": True})
    assert found.startswith("error: datasets: val: dataroot_lq: file names, or a working directory, not in UTF-8")


def test_large_datasets_are_looked_at_by_their_headers(root, monkeypatch):
    """5,000 of 20,000 pairs, and one of each suffix; images are decoded for what headers do not say."""
    write_pairs(root, count=2)
    (root / "HR" / "1.png").rename(root / "HR" / "1.bmp")
    lq, gt = [str(root / "LR" / "0x4.png")], [str(root / "HR" / "0.png")]
    names = Images(lq * 20_000, gt * 20_000)
    # Different texts of one file.
    names.gt = [f"{root}/HR/{'./' * (number % 200)}/{'.//' * (number // 200)}0.png" for number in range(20_000)]
    names.lq[-2:], names.gt[-2:] = [str(root / "LR" / "1x4.png")] * 2, [str(root / "HR" / "1.bmp"), names.gt[0]]
    read, decoded = images.read, []
    monkeypatch.setattr(images, "read", lambda content: decoded.append(1) or read(content))
    dataset = {"io_backend": {"type": "disk"}, "scale": 4, "phase": "val", "dataroot_lq": "", "dataroot_gt": ""}
    look_at(dataset, names, every=False)
    assert names.problems == [] and len(names.results) == 5001 and len(decoded) == 1
    assert names.results[-1][0].endswith("1.bmp")


def test_lmdb(check, root):
    """Names are taken from the lists; the images are not looked at."""
    pytest.importorskip("lmdb")
    for name in ("HR.lmdb", "LR.lmdb"):
        (root / name).mkdir()
        (root / name / "meta_info.txt").write_text("0.png (96,80,3) 1\n")
    keys = {"dataroot_gt": "HR.lmdb", "dataroot_lq": "LR.lmdb", "io_backend": {"type": "lmdb"}}
    assert check(of("val", **keys)) == []
    (root / "LR.lmdb" / "meta_info.txt").write_text("1.png (24,20,3) 1\n")
    (found,) = check(of("val", **keys))
    assert found.startswith("error: datasets: val: dataroot_lq: Keys in lq_folder and gt_folder are different.")


def test_images_that_are_changed_when_they_are_read(check, root):
    """OpenCV gives RGB of 8 bits of them all: said once for a dataset, with their numbers."""
    for name, mode in (("HR/0.png", "RGBA"), ("LR/0x4.png", "LA"), ("LR/1x4.png", "P")):
        with Image.open(root / name) as image:
            image.convert(mode).save(root / name)
    deep = cv2.imread(str(root / "HR" / "1.png")).astype(np.uint16) * 256
    cv2.imwrite(str(root / "HR" / "1.png"), deep)
    counts = (
        f"1 with 16 bits a channel, of which 8 are read (such as {root}/HR/1.png), "
        f"2 with alpha, which is dropped (such as {root}/LR/0x4.png), "
        f"1 with a palette, whose colors are read (such as {root}/LR/1x4.png)"
    )
    text = "BasicSR reads images as RGB of 8 bits; of the 4 looked at there are"
    expected = [f"warning: datasets: {phase}: dataroot_lq: {text} {counts}" for phase in ("train", "val")]
    assert check() == check(every_pair=True) == expected
    for name in ("HR/0.png", "HR/1.png", "LR/0x4.png", "LR/1x4.png"):
        pixels = images.read((root / name).read_bytes())
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
