"""The command as a whole: what it writes, what it keeps, and every image that needs a word."""

import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from PIL import Image

from contrast_arch import prepare as package
from contrast_arch.cli import main
from contrast_arch.prepare.images import bicubic
from tests.conftest import SET5

generator = np.random.default_rng(0)


def save(path, height, width, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    coarse.resize((width, height), Image.BICUBIC).convert(mode).save(path)
    return path


def prepare(*arguments):
    return main(["prepare", "--processes", "1", *map(str, arguments)])


def pixels(path):
    return np.asarray(Image.open(path))


def files(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def two_roots(tmp_path_factory):
    """LSDIR-like nested folders, another root with a name that appears in the first, and every awkward kind."""
    base = tmp_path_factory.mktemp("roots")
    a, b = base / "LSDIR", base / "DF2K"
    save(a / "0001000" / "0000001.png", 61, 50)
    save(a / "0002000" / "0000002.jpg", 48, 48)
    save(b / "0000001.png", 52, 70)
    save(b / "grey.png", 48, 50, "L")
    save(b / "tiny.png", 48, 47)
    save(b / "with space.png", 48, 48)
    cut = save(b / "cut.png", 200, 200)
    cut.write_bytes(cut.read_bytes()[:-500])
    (b / "readme.txt").write_text("not an image")
    output = base / "out"
    assert prepare(a, b, "--output", output, "--scales", 2, 4, "--gt-size", 48) == 0
    return a, b, output


def test_hr_and_lq(two_roots):
    a, b, output = two_roots
    hr = pixels(output / "HR" / "0000002.png")
    assert (hr == pixels(a / "0002000" / "0000002.jpg")).all()
    cropped = pixels(output / "HR" / f"{b.parent.name}_DF2K_0000001.png")
    assert (cropped == pixels(b / "0000001.png")[:52, :68]).all()
    for scale in (2, 4):
        for path in (output / "HR").iterdir():
            lq = pixels(output / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png")
            assert (lq == bicubic(pixels(path), 1 / scale)).all()


def test_meta_info_is_what_basicsr_reads(two_roots):
    a, _, output = two_roots
    base = a.parent.name
    assert (output / "meta_info.txt").read_text().splitlines() == [
        "0000002.png (48,48,3)",
        "grey.png (48,48,3)",
        f"{base}_DF2K_0000001.png (52,68,3)",
        f"{base}_LSDIR_0001000_0000001.png (60,48,3)",
        "with_space.png (48,48,3)",
    ]
    options = {
        "io_backend": {"type": "disk"},
        "dataroot_gt": str(output / "HR"),
        "dataroot_lq": str(output / "LR_bicubic" / "X4"),
        "meta_info_file": str(output / "meta_info.txt"),
        "filename_tmpl": "{}x4",
        "phase": "train",
        "scale": 4,
        "gt_size": 48,
        "use_hflip": True,
        "use_rot": True,
    }
    dataset = PairedImageDataset(options)
    assert len(dataset) == 5
    assert all(dataset[i]["gt"].shape == (3, 48, 48) and dataset[i]["lq"].shape == (3, 12, 12) for i in range(5))


def test_everything_odd_is_reported(two_roots):
    a, b, output = two_roots
    report = (output / "prepare_report.txt").read_text().splitlines()
    expected = {
        a / "0001000" / "0000001.png": f"stored as {a.parent.name}_LSDIR_0001000_0000001",
        b / "0000001.png": f"stored as {a.parent.name}_DF2K_0000001",
        b / "grey.png": "L, converted to RGB",
        b / "tiny.png": "47x48, smaller than 48x48; left out",
        b / "with space.png": "stored as with_space",
        b / "cut.png": "damaged: ",
        b / "readme.txt": "no image; left out",
    }
    assert len(report) == len(expected)
    for path, words in expected.items():
        assert any(line.startswith(f"{path}: {words}") for line in report), path
    assert not (output / "HR" / "cut.png").exists()


def test_second_run_does_what_is_missing(two_roots, capsys):
    a, b, output = two_roots
    arguments = (a, b, "--output", output, "--scales", 2, 4, "--gt-size", 48)
    images = {name: time for name, time in files(output).items() if name.endswith(".png")}
    (output / "LR_bicubic" / "X2" / "greyx2.png").unlink()
    changed = pixels(output / "HR" / "0000002.png").copy()
    Image.fromarray(255 - changed).save(output / "HR" / "0000002.png")  # no longer what was written
    assert prepare(*arguments) == 0
    assert "2 of them made now" in capsys.readouterr().out
    after = files(output)
    assert {name for name in images if after[name] != images[name]} == {
        "HR/grey.png",
        "LR_bicubic/X2/greyx2.png",
        "LR_bicubic/X4/greyx4.png",
        "HR/0000002.png",
        "LR_bicubic/X2/0000002x2.png",
        "LR_bicubic/X4/0000002x4.png",
    }
    assert (pixels(output / "HR" / "0000002.png") == changed).all()

    # A source that has another content now, of the same size.
    save(b / "grey.png", 48, 50, "L")
    os.utime(b / "grey.png", ns=(1, 1))
    assert prepare(*arguments) == 0
    assert "1 of them made now" in capsys.readouterr().out
    assert (pixels(output / "HR" / "grey.png")[:, :, 0] == pixels(b / "grey.png")[:, :48]).all()


def test_a_deleted_source_leaves_the_list(two_roots, capsys):
    a, b, output = two_roots
    hidden = (b / "grey.png").rename(b.parent / "grey.png")
    assert prepare(a, b, "--output", output, "--scales", 2, 4, "--gt-size", 48) == 0
    hidden.rename(b / "grey.png")
    assert "grey.png" not in (output / "meta_info.txt").read_text()
    assert f"{output / 'HR' / 'grey.png'}: of no image here" in capsys.readouterr().out
    assert prepare(a, b, "--output", output, "--scales", 2, 4, "--gt-size", 48) == 0
    assert "grey.png" in (output / "meta_info.txt").read_text()


def test_sub_images(tmp_path):
    """Parts cover the image to its border; LQ parts are those of the whole LQ image."""
    image = save(tmp_path / "root" / "a.png", 200, 122)
    output = tmp_path / "out"
    assert prepare(tmp_path / "root", "--output", output, "--gt-size", 64, "--sub-images", 96) == 0
    hr = pixels(image)[:200, :120]
    lq = bicubic(hr, 1 / 4)
    tops, lefts = (0, 48, 96, 104), (0, 24)
    for i, (top, left) in enumerate(((t, x) for t in tops for x in lefts), start=1):
        assert (pixels(output / "HR" / f"a_s{i:03d}.png") == hr[top : top + 96, left : left + 96]).all()
        part = lq[top // 4 : top // 4 + 24, left // 4 : left // 4 + 24]
        assert (pixels(output / "LR_bicubic" / "X4" / f"a_s{i:03d}x4.png") == part).all()
    assert len((output / "meta_info.txt").read_text().splitlines()) == 8


def test_validation_keeps_hr_whole_and_gives_the_published_lq(tmp_path):
    """The X4 images that are published with Set5, MATLAB's."""
    assert prepare(SET5 / "HR", "--output", tmp_path / "Set5", "--for", "validation", "--scales", 3, 4) == 0
    differences = []
    for path in (SET5 / "HR").iterdir():
        assert (pixels(tmp_path / "Set5" / "HR" / path.name) == pixels(path)).all()
        published = pixels(SET5 / "LR_bicubic" / "X4" / f"{path.stem}x4.png").astype(int)
        made = pixels(tmp_path / "Set5" / "LR_bicubic" / "X4" / f"{path.stem}x4.png")
        differences.append(np.abs(made - published).ravel())
        x3 = pixels(tmp_path / "Set5" / "LR_bicubic" / "X3" / f"{path.stem}x3.png")
        assert x3.shape[:2] == tuple(side // 3 for side in pixels(path).shape[:2])
    differences = np.concatenate(differences)
    assert len(differences) == 106_398 and differences.max() <= 2 and (differences <= 1).mean() >= 0.9999


class Threads(ThreadPoolExecutor):
    """In the place of processes, which take seconds to begin; the work is pickled as for them."""

    killed_after = None

    def __init__(self, processes, context, initializer, arguments):
        assert context.get_start_method() == "spawn" and (initializer, arguments) == (torch.set_num_threads, (1,))
        super().__init__(1)

    def submit(self, call, *arguments):
        def work():
            if self.killed_after is not None and len(Threads.done) >= self.killed_after:
                raise BrokenProcessPool
            Threads.done.append(arguments)
            return pickle.loads(pickle.dumps(call))(*arguments)

        return super().submit(work)


def test_a_killed_run_leaves_whole_images_and_goes_on(tmp_path, monkeypatch, capsys):
    """A worker ends after two of its images, in the middle of a third one."""
    for i in range(6):
        save(tmp_path / "root" / f"{i}.png", 72, 64)
    output = tmp_path / "out"
    arguments = ["prepare", str(tmp_path / "root"), "--output", str(output), "--gt-size", "64", "--processes", "2"]
    monkeypatch.setattr(package, "ProcessPoolExecutor", Threads)
    monkeypatch.setattr(Threads, "done", [], raising=False)
    monkeypatch.setattr(Threads, "killed_after", 2)
    assert main(arguments) == 1
    message = "; what is done is kept: the same command goes on, with fewer --processes where memory is short"
    assert message in capsys.readouterr().err
    (output / "HR" / ".5.png.tmp").write_bytes(b"half of a file")
    assert len(list(output.rglob("[!.]*.png"))) == 4 and not (output / "meta_info.txt").exists()
    monkeypatch.setattr(Threads, "killed_after", None)
    assert main(arguments) == 0
    assert "6 images in 6 HR files" in (out := capsys.readouterr().out) and "4 of them made now" in out
    assert len(list(output.rglob("*.png"))) == 12 and not list(output.rglob(".*"))
    assert [line[:5] for line in (output / "meta_info.txt").read_text().splitlines()] == [f"{i}.png" for i in range(6)]


def test_two_processes_make_what_one_makes(tmp_path):
    for i in range(3):
        save(tmp_path / "root" / f"{i}.png", 64, 68)
    for count in (1, 2):
        output = tmp_path / str(count)
        arguments = ["prepare", tmp_path / "root", "--output", output, "--gt-size", 64, "--processes", count]
        assert main([*map(str, arguments)]) == 0
    one, two = tmp_path / "1", tmp_path / "2"
    assert sorted(files(one)) == sorted(files(two)) and len(files(two)) == 3 * 2 + 3
    for name in files(one):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    save(tmp_path / "root" / "a.png", 64, 64)
    monkeypatch.setattr(package, "_write_image", Mock(side_effect=OSError(28, "No space left on device")))
    assert prepare(tmp_path / "root", "--output", tmp_path / "out", "--gt-size", 64) == 1
    error = capsys.readouterr().err
    assert "error: [Errno 28] No space left on device; what is done is kept: the same command goes on, with" in error


MISTAKES = {
    "no such root": (["nowhere", "--output", "new"], "nowhere: no such folder; expected one with HR images"),
    "empty root": (["empty", "--output", "new"], "empty: no image in it; expected .png, .jpg"),
    "output in root": (["root", "--output", "root/out"], "expected roots and an output of which none lies"),
    "root in output": (["out/HR", "--output", "out"], "expected roots and an output of which none lies"),
    "root twice": (["root", "root", "--output", "new"], "expected roots and an output of which none lies in another"),
    "foreign output": (["root", "--output", "foreign"], "HR exists already and was not made by this command"),
    "other settings": (
        ["root", "--output", "out", "--scales", "3"],
        'out was prepared with {"settings": {"multiple": 4,',
    ),
    "a root forgotten": (["second", "--output", "out"], "now asked for is {"),
    "sub-images": (["root", "--output", "new", "--sub-images", "482"], "--sub-images 482: expected a multiple of 4"),
    "small sub-images": (["root", "--output", "new", "--sub-images", "128"], "and at least --gt-size 256"),
    "validation": (["root", "--output", "new", "--for", "validation", "--gt-size", "64"], "keeps images whole; leave"),
    "processes": (["root", "--output", "new", "--processes", "0"], "--processes 0: expected more than 0"),
    "many processes": (["root", "--output", "new", "--processes", "1025"], "--processes 1025: expected at most 1024"),
    "a file in the place": (["root", "--output", "root/a.png"], "a.png: expected roots and an output"),
    "a file above it": (["root", "--output", "second/ä.png/out"], "out/HR: Not a directory"),
    "names for lmdb": (
        ["second", "--output", "new", "--lmdb"],
        "ä.png: LMDB files have ASCII keys that end at the first dot",
    ),
    "no path for lmdb": (
        ["root", "--output", "caf\udce9", "--lmdb"],
        "caf\\udce9: LMDB files have ASCII keys",
    ),
    "links in a circle": (["circle", "--output", "new"], "circle: no such folder"),
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    save(folder / "root" / "a.png", 64, 64)
    save(folder / "second" / "ä.png", 64, 64)
    save(folder / "foreign" / "HR" / "b.png", 64, 64)
    (folder / "empty").mkdir()
    (folder / "circle").symlink_to("circle")
    assert prepare(folder / "root", "--output", folder / "out", "--gt-size", 64) == 0
    return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_message(workplace, mistake, monkeypatch, capsys):
    arguments, message = MISTAKES[mistake]
    monkeypatch.chdir(workplace)
    before = files(workplace)
    assert main(["prepare", *arguments]) == 1
    assert files(workplace) == before
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_lmdb_where_basicsr_was_cut_down(workplace, monkeypatch, capsys):
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda name: Mock() if name == "basicsr" else None)
    monkeypatch.chdir(workplace)
    before = files(workplace)
    assert main(["prepare", "root", "--output", "new", "--lmdb"]) == 1
    assert files(workplace) == before
    error = capsys.readouterr().err
    assert re.search(r"error: --lmdb: BasicSR 1\.4\.2 \(.*\) lacks utils/lmdb_util\.py; work in", error)


def test_nothing_usable(tmp_path, capsys):
    save(tmp_path / "root" / "a.png", 20, 20)
    assert prepare(tmp_path / "root", "--output", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "20x20, smaller than 256x256; left out" in captured.out
    assert "none of the 1 images can be used" in captured.err
    assert not Path(tmp_path / "out" / "meta_info.txt").exists()
