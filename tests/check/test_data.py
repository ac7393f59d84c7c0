"""Folders, lists, and pairs of images."""

import itertools
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from PIL import ExifTags, Image, ImageOps

from contrast_arch import images
from contrast_arch.check.pairs import Pairs, find_pairs, size_problems
from tests.conftest import write_pairs


def of(phase, **keys):
    return {f"datasets.{phase}.{key}": value for key, value in keys.items()}


def test_names_that_do_not_pair(check, root):
    write_pairs(root, count=4)
    (root / "LR" / "1x4.png").unlink()
    (root / "LR" / "2x4.png").rename(root / "LR" / "2x2.png")
    lr, hr = root / "LR", root / "HR"
    expected = (
        f"datasets: val: dataroot_lq: LQ and GT do not fit\n  1.png: 1x4.png is not in {lr}\n  2.png: "
        f"2x4.png is not in {lr}\n  {lr}/2x2.png belongs to no image of {hr}"
    )
    assert f"error: {expected}" in check()


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
        return size_problems(dataset, find_pairs(dataset, PairedImageDataset), every)

    return find


def noise(mode="RGB", size=(48, 32)):
    return Image.effect_noise(size, 50).convert(mode)


@pytest.mark.parametrize("every_pair", [False, True])
@pytest.mark.parametrize(
    "suffix, mode, kind",
    [
        *(
            (name.lower(), mode, name)
            for name, mode in [("TGA", "RGB"), ("PCX", "RGB"), ("ICO", "RGBA"), ("SGI", "RGB"), ("DDS", "RGB")]
        ),
        ("tif", "F", "TIFF"),
        ("tif", "I", "TIFF"),
        ("pfm", "F", "PPM"),
    ],
)
def test_images_that_pillow_reads_and_the_run_does_not(problems, tmp_path, every_pair, suffix, mode, kind):
    """The dataset of the run gives no image of them either, and does not name them."""
    from basicsr.data import build_dataset

    (found,) = problems(suffix, noise(mode), noise(mode, (12, 8)), every_pair)
    how = " completely" if every_pair else ""
    assert found == (
        f"{tmp_path}/LR/0x4.{suffix}: cannot be read as an image{how}: OpenCV, which BasicSR reads with, cannot decode "
        f"{kind} with pixels of kind {mode}; store it as PNG"
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


def exif(orientation):
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags.tobytes()


def photograph(size):
    """A scene without symmetries."""
    small = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


@pytest.mark.parametrize(
    "suffix, every_pair, orientations",
    [
        ("png", False, range(1, 9)),
        ("png", True, (6,)),
        ("jpg", False, (3, 6)),
        ("tif", False, (3, 6)),
        ("webp", False, (6,)),
    ],
)
def test_exif_orientations(problems, suffix, every_pair, orientations):
    """As the run reads them: GT turned; LQ of GT as it is shown fits, LQ of GT as it is stored does not."""
    keys = {"lossless": True} if suffix == "webp" else {}
    for size, orientation in itertools.product([(96, 64), (64, 64)], orientations):
        stored, turned, upright = photograph(size), keys | {"exif": exif(orientation)}, keys | {"exif": exif(1)}
        stored.getexif()[ExifTags.Base.Orientation] = orientation
        shown = ImageOps.exif_transpose(stored)
        of_shown, of_stored = (
            image.resize([side // 4 for side in image.size], Image.Resampling.BOX) for image in (shown, stored)
        )
        assert problems(suffix, stored, of_shown, every_pair, turned, upright) == []
        assert problems(suffix, stored, of_stored, every_pair, turned, turned) == []
        found = problems(suffix, stored, of_stored, every_pair, turned, upright)
        if orientation == 1:
            assert found == []
            continue
        sizes_differ = orientation >= 5 and size == (96, 64)
        assert ("must be" if sizes_differ else f"0x4.{suffix} shows") in found[0]
        assert f"(EXIF orientations: LQ 1, GT {orientation}; OpenCV, which BasicSR reads with, turns" in found[0]
        # LQ that is turned twice.
        (found,) = problems(suffix, stored, of_shown, every_pair, turned, turned)
        assert ("must be" if sizes_differ else "turned or mirrored") in found


def test_degraded_and_featureless_images_are_no_turned_ones(problems):
    grey, scene, rng = Image.new("RGB", (64, 64), "grey"), photograph((64, 64)), np.random.default_rng(0)
    assert problems("png", grey, grey.resize((16, 16)), False, {"exif": exif(3)}) == []
    noisy = np.asarray(scene.resize((16, 16))) + rng.normal(0, 40, (16, 16, 3))
    noisy = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    assert problems("png", scene.transpose(Image.Transpose.ROTATE_180), noisy, False, {"exif": exif(3)}) == []
    assert len(problems("png", scene, noisy, False, {"exif": exif(3)})) == 1


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
        ": dataroot_lq: file names that are not UTF-8, under which val: save_img cannot save results; rename them "
        "('convmv -r -f latin1 -t utf8 --notest FOLDER' does it for Latin-1), or write save_img: false\n  "
        f"{root}/LR/caf\\udce9x4.png"
    )
    assert found == [f"error: datasets: {phase}{expected}" for phase in phases]


def test_a_working_directory_that_is_not_utf8(check, root, latin1, monkeypatch):
    monkeypatch.chdir(root / latin1)
    Path("options.yml").symlink_to(root / "options.yml")
    assert check() == []
    found = check({"val.save_img": True, "logger.use_tb_logger": True})
    assert [message.split(",")[0] for message in found] == [
        rf"error: val: save_img: true: OpenCV cannot write under {root}/caf\udce9",
        rf"error: logger: use_tb_logger: true: TensorBoard cannot write under {root}/caf\udce9",
    ]


def test_large_datasets_are_looked_at_by_their_headers(root, monkeypatch):
    """5,000 of 20,000 pairs, and one of each suffix; images are decoded for what headers do not say."""
    write_pairs(root, count=2)
    (root / "HR" / "1.png").rename(root / "HR" / "1.bmp")
    lq, gt = [str(root / "LR" / "0x4.png")], [str(root / "HR" / "0.png")]
    names = Pairs(lq * 20_000, gt * 20_000)
    # Different texts of one file.
    names.gt = [f"{root}/HR/{'./' * (number % 200)}/{'.//' * (number // 200)}0.png" for number in range(20_000)]
    names.lq[-2:], names.gt[-2:] = [str(root / "LR" / "1x4.png")] * 2, [str(root / "HR" / "1.bmp"), names.gt[0]]
    read, decoded = images.read, []
    monkeypatch.setattr(images, "read", lambda content: decoded.append(1) or read(content))
    dataset = {"io_backend": {"type": "disk"}, "scale": 4, "phase": "val", "dataroot_lq": "", "dataroot_gt": ""}
    assert size_problems(dataset, names, every=False) == []
    assert len(names.results) == 5001 and len(decoded) == 1
    assert names.results[-1][0].endswith("1.bmp")


def test_lmdb(check, root):
    pytest.importorskip("lmdb")
    hr, lr = (root / f"{folder}.lmdb" for folder in ("HR", "LR"))
    for folder, names in ((hr, ["0.png", "1.png"]), (lr, ["0x4.png", "1x4.png"])):
        make_lmdb_from_imgs(str(folder.with_suffix("")), str(folder), names, ["0", "1"])
    keys = {"dataroot_gt": str(hr), "dataroot_lq": str(lr), "io_backend": {"type": "lmdb"}}
    assert check(of("train", **keys), every_pair=True) == []
    (found,) = check(of("train", **{**keys, "dataroot_lq": str(hr)}))
    assert found.startswith("error: datasets: train: dataroot_lq: LQ and GT do not fit")


@pytest.mark.parametrize("phase", ["train", "val"])
def test_sizes_of_images_in_an_lmdb(check, root, phase):
    """BasicSR reads no sizes from the lists."""
    lmdb = pytest.importorskip("lmdb")
    write_pairs(root / "small", count=1, lq=(24, 19))
    small = root / "small" / "LR" / "0x4.png"
    with Image.open(small) as image:
        image.convert("RGBA").save(small)
    for folder, files in {"HR": [root / "HR" / "0.png"] * 2, "LR": [root / "LR" / "0x4.png", small]}.items():
        (root / f"{folder}.lmdb").mkdir()
        (root / f"{folder}.lmdb" / "meta_info.txt").write_text("0.png (96,80,3) 1\n1.png (96,80,3) 1\n")
        with lmdb.open(str(root / f"{folder}.lmdb")) as opened, opened.begin(write=True) as writing:
            for number, image in enumerate(files):
                writing.put(str(number).encode(), image.read_bytes())
    keys = {"dataroot_gt": "HR.lmdb", "dataroot_lq": "LR.lmdb", "io_backend": {"type": "lmdb"}}
    found = check(of(phase, **keys))
    assert any("of the 4 looked at there are 1 with alpha, which is dropped (such as 1)" in text for text in found)
    text = "1 is 24x19, so at scale 4 1 must be 96x76, not 96x80"
    assert f"error: datasets: {phase}: dataroot_lq: LQ and GT do not fit\n  {text}" in found


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


def test_no_lmdb(check, root):
    pytest.importorskip("lmdb")
    for name in ("HR.lmdb", "LR.lmdb"):
        (root / name).mkdir()
        (root / name / "meta_info.txt").write_text("0.png (96,80,3) 1\n")
    keys = {"dataroot_gt": "HR.lmdb", "dataroot_lq": "LR.lmdb", "io_backend": {"type": "lmdb"}}
    (found,) = check(of("val", **keys))
    assert found.startswith("error: datasets: val: dataroot_lq: LQ and GT do not fit\n  LR.lmdb cannot be opened: ")
