"""Names that a dataset cannot have as they are, names that would become one file, and links."""

import io
import os
import sys

import cv2
import numpy as np
import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset

from contrast_arch.prepare.sources import LONGEST_NAME, find_sources
from tests.prepare.test_prepare import files, pixels, prepare


def named(folder, name: bytes):
    """A path whose name is these bytes."""
    folder.mkdir(exist_ok=True)
    path = folder / os.fsdecode(name)
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    path.unlink()
    return path


def meta(output):
    return (output / "meta_info.txt").read_text().splitlines()


def flat(path, value, size=48, dtype=np.uint8):
    """An image of one value, by which it is known again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.full((size, size, 3), value, dtype))[1].tobytes())


def values(output):
    """Value of each HR file, all of whose LQ pixels have it too."""
    found = {path.stem: pixels(path) for path in (output / "HR").iterdir()}
    for name, hr in found.items():
        assert (hr == hr[0, 0, 0]).all()
        assert (pixels(output / "LR_bicubic" / "X4" / f"{name}x4.png") == hr[0, 0, 0]).all()
    return {name: int(hr[0, 0, 0]) for name, hr in found.items()}


def test_names_that_are_not_utf8(tmp_path, monkeypatch):
    """Also of 16-bit images, which OpenCV reads, and where stdout has ASCII only."""
    root, output = tmp_path / "root", tmp_path / "out"
    flat(named(root, b"caf\xe9.png"), 7)
    flat(named(root, b"d\xe9\xe8p.png"), 9 * 257, dtype=np.uint16)
    flat(root / "ä.png", 11)
    named(root, b"not\xe9.txt").write_text("no image")
    arguments = (root, "--output", output, "--gt-size", 48)
    for made in (3, 0):
        stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", stdout)
        assert prepare(*arguments) == 0
        stdout.flush()
        printed = stdout.buffer.getvalue().decode("ascii")
        assert f"3 images in 3 HR files under {output}, {made} of them made now; 0 left out; 4 notes" in printed
    assert meta(output) == ["caf_.png (48,48,3)", "d__p.png (48,48,3)", "ä.png (48,48,3)"]
    assert values(output) == {"caf_": 7, "d__p": 9, "ä": 11}
    report = (output / "prepare_report.txt").read_text()
    assert f"{root}/caf\\udce9.png: stored as caf_\n" in report
    assert f"{root}/not\\udce9.txt: no image; left out\n" in report and report in printed.replace("\\xe4", "ä")


def test_names_that_become_equal(tmp_path):
    """By characters that are left out, by case, and by how an accent is stored."""
    root = tmp_path / "root"
    written = {b"a\xe9.png": 1, b"a\xe8.png": 2, "É.png".encode(): 3, "e\u0301.png".encode(): 4, b"b.png": 5}
    for name, value in written.items():
        flat(named(root, name), value)
    assert prepare(root, "--output", tmp_path / "out", "--gt-size", 48) == 0
    base = f"{tmp_path.name}_root_"
    found = values(tmp_path / "out")
    assert found == {f"{base}a_": 2, f"{base}a__2": 1, f"{base}e\u0301": 4, f"{base}É_2": 3, "b": 5}
    assert len(meta(tmp_path / "out")) == 5


@pytest.mark.parametrize("more", [[], ["--sub-images", "64"]])
def test_long_names(tmp_path, more):
    """The longest names that a file system takes, alone and with their folders in front."""
    root, output = tmp_path / "root", tmp_path / "out"
    written = ["x" * 247 + "0001", "x" * 247 + "0002", "y" + "x" * 246 + "0002", "ä" * 125, "z" * LONGEST_NAME]
    for value, name in enumerate(written):
        flat(root / f"{name}.png", value, 96)
    flat(root / ("f" * 255) / "a.png", 5, 96)
    flat(root / ("g" * 255) / "a.png", 6, 96)
    assert prepare(root, "--output", output, "--gt-size", 64, *more) == 0
    folders = {"f" * (LONGEST_NAME - 2) + "_a": 5, "g" * (LONGEST_NAME - 2) + "_a": 6}
    names = {
        "x" * (LONGEST_NAME - 4) + "0001": 0,
        "x" * (LONGEST_NAME - 4) + "0002": 1,
        "ä" * (LONGEST_NAME // 2): 3,
        "z" * LONGEST_NAME: 4,
    }
    found = values(output)
    if more:
        assert len(found) == 7 * 4 and all(name[-5:] in {f"_s00{i}" for i in range(1, 5)} for name in found)
        found = {name[:-5]: value for name, value in found.items()}
    assert len(found) == 7 and (names | folders).items() <= found.items()
    assert len(meta(output)) == (7 * 4 if more else 7)
    assert f"{written[0]}.png: stored as {'x' * 196}0001\n" in (output / "prepare_report.txt").read_text()


def test_parts_have_names_of_their_own(tmp_path, capsys):
    """Whichever comes first, the image or one that is named like a part of it."""
    a, b, output = tmp_path / "a", tmp_path / "b", tmp_path / "out"
    flat(a / "p.png", 1, 96)
    flat(a / "p_s001.png", 2, 64)
    flat(a / "p_s001_s002.png", 3, 96)
    flat(a / "q_S002.png", 4, 64)
    flat(b / "q.png", 5, 96)
    flat(b / "q_s02.png", 6, 64)  # no part has so short a number
    arguments = (a, b, "--output", output, "--gt-size", 64, "--sub-images", 64)
    for made in (6, 0):
        assert prepare(*arguments) == 0
        assert f"6 images in 15 HR files under {output}, {made} of them made now" in capsys.readouterr().out
    found = values(output)
    assert found == {
        **{f"p_s00{i}": 1 for i in range(1, 5)},
        "p_s001_2": 2,
        **{f"p_s001_s002_s00{i}": 3 for i in range(1, 5)},
        "q_S002": 4,
        **{f"q_2_s00{i}": 5 for i in range(1, 5)},
        "q_s02": 6,
    }
    assert sorted(line.split(".png ")[0] for line in meta(output)) == sorted(found)
    assert (output / "prepare_report.txt").read_text().splitlines() == [
        f"{a}/p_s001.png: stored as p_s001_2",
        f"{b}/q.png: stored as q_2",
    ]
    # Without parts all names are free.
    assert prepare(a, b, "--output", tmp_path / "whole", "--gt-size", 64) == 0
    assert sorted(values(tmp_path / "whole").values()) == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "whole" / "prepare_report.txt").read_text() == ""


def test_links(tmp_path, capsys):
    """Folders are entered once; broken links are named and counted; loops end."""
    root, elsewhere, output = tmp_path / "root", tmp_path / "elsewhere", tmp_path / "out"
    flat(root / "own" / "a.png", 1)
    flat(elsewhere / "images" / "b.png", 2)
    flat(elsewhere / "images" / "deep" / "c.png", 3)
    flat(root / ".cache" / "d.png", 4)
    flat(tmp_path / "file.png", 5)
    output.mkdir()
    links = {
        "hidden": root / ".cache",
        "images": elsewhere / "images",
        "images/deep/loop": elsewhere / "images",
        "images2": elsewhere / "images",
        "own/up": root,
        "own/above": tmp_path,
        "prepared": output,
        "e.png": tmp_path / "file.png",
        "gone.png": tmp_path / "nothing.png",
        "gone": tmp_path / "no folder",
        "self.png": root / "self.png",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    for made in (5, 0):
        assert prepare(root, "--output", output, "--gt-size", 48) == 0
        assert f"5 images in 5 HR files under {output}, {made} of them made now; 2 left out" in capsys.readouterr().out
    assert values(output) == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    report = (output / "prepare_report.txt").read_text().splitlines()
    for name in ("images/deep/loop", "images2", "own/up", "own/above", "prepared"):
        assert any(line.startswith(f"{root / name}: a link to {(root / name).resolve()}, ") for line in report)
    assert f"{root}/gone: no image; left out" in report
    for name in ("gone.png", "self.png"):
        assert any(line.startswith(f"{root / name}: cannot be read as an image: [Errno ") for line in report)
    assert len(report) == 8


def test_files_and_folders_that_cannot_be_read(tmp_path, monkeypatch):
    """A folder that may not be listed, and what would block whoever opens it."""
    root = tmp_path / "root"
    flat(root / "a.png", 1)
    (root / "lost+found").mkdir()
    os.mkfifo(root / "pipe.png")
    (root / "piped.png").symlink_to("pipe.png")
    listed = os.scandir

    def scandir(folder):
        if os.path.basename(folder) == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    sources, notes = find_sources([root], tmp_path / "out", cut=False)
    assert [source.name for source in sources] == ["a"]
    assert sorted(notes) == [
        f"{root}/lost+found: cannot be listed (Permission denied); left out",
        f"{root}/pipe.png: no image; left out",
        f"{root}/piped.png: no image; left out",
    ]


def test_a_root_below_a_hidden_folder(tmp_path):
    """Names with the folders in front begin with no dot, which would hide them."""
    root = tmp_path / ".data" / "set"
    flat(root / "x" / "a.png", 1)
    flat(root / "y" / "a.png", 2)
    assert prepare(root, "--output", tmp_path / "out", "--gt-size", 48) == 0
    assert values(tmp_path / "out") == {"_data_set_x_a": 1, "_data_set_y_a": 2}
    assert not [name for name in files(tmp_path / "out") if "/." in name]


@pytest.mark.parametrize("more", [[], ["--sub-images", 64]])
def test_lmdb(tmp_path, more):
    """BasicSR reads each image, and HR and LQ of the same one, after a second call too."""
    root, output = tmp_path / "root", tmp_path / "out"
    for value, name in enumerate("abc"):
        flat(root / f"{name}.png", 10 * value, 96)
    for _ in range(2):
        assert prepare(root, "--output", output, "--gt-size", 64, "--lmdb", *more) == 0
    roots = {"dataroot_gt": str(output / "HR.lmdb"), "dataroot_lq": str(output / "LR_bicubic" / "X4.lmdb")}
    dataset = PairedImageDataset({"io_backend": {"type": "lmdb"}, "phase": "val", "scale": 4} | roots)
    found = {}
    for item in (dataset[i] for i in range(len(dataset))):
        value = (item["gt"] * 255).round().unique()
        assert (value == (item["lq"] * 255).round().unique()).all()
        found[item["gt_path"]] = int(value)
    parts = [f"_s{number:03d}" for number in range(1, 5)] if more else [""]
    assert found == {f"{name}{part}": 10 * value for value, name in enumerate("abc") for part in parts}
    assert not list(output.rglob(".*"))
