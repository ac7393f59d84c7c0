"""``contrast-arch upscale``: files and folders, by value; what fails, what is skipped, what is interrupted."""

import io
import os
import sys
import threading
import time

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import ExifTags, Image
from torch import nn

import contrast_arch
from contrast_arch.cli import main
from contrast_arch.errors import InputError
from contrast_arch.inference import files, images
from contrast_arch.inference.files import plan
from contrast_arch.version import __version__
from tests.conftest import SET5, run_python

BIRD = SET5 / "LR_bicubic" / "X4" / "birdx4.png"
PIXELS = np.asarray(Image.open(BIRD))[:6, :8]


class Nearest(nn.Module):
    upscale, in_chans, window_size = 2, 3, 1

    def forward(self, x):
        return F.interpolate(x, scale_factor=2, mode="nearest")


@pytest.fixture
def nearest(monkeypatch):
    """The command with a network that repeats pixels."""
    monkeypatch.setattr(files, "load", lambda model, device: Nearest())


def repeated(pixels):
    return pixels.repeat(2, 0).repeat(2, 1)


def picture(path, pixels=PIXELS, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **more)


def upscale(*arguments):
    return main(["upscale", *map(str, arguments)])


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_photograph_with_the_shipped_weights(tmp_path):
    """Without BasicSR, OpenCV, YAML and what the pictures of reports need."""
    picture(tmp_path / "bird.png", PIXELS)
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(['basicsr', 'matplotlib', 'cv2', 'yaml', 'tifffile'])\n"
        "from contrast_arch.cli import main\n"
        "sys.exit(main(['upscale', 'bird.png', '-o', 'new/bird.png']))\n"
    )
    done = run_python(tmp_path, "-c", code)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert done.stderr.startswith("1 upscaled in ") and "\r" not in done.stderr
    expected = contrast_arch.upscale(PIXELS, contrast_arch.load_pretrained(files.DEFAULT_MODEL), tile=0)
    found = Image.open(tmp_path / "new" / "bird.png")
    # Another process may have another number of threads.
    assert np.abs(np.asarray(found).astype(int) - expected).max() <= 1
    assert found.text["Software"] == f"contrast-arch {__version__}, {files.DEFAULT_MODEL}, X4"


@pytest.mark.usefixtures("nearest")
def test_folders_keep_their_sub_folders(tmp_path, monkeypatch, capsys):
    source, output = tmp_path / "in", tmp_path / "in" / "out"
    picture(source / "a.png")
    picture(source / "sub" / "deep" / "b.BMP", PIXELS[::-1])
    picture(source / ".hidden" / "c.png")
    (source / "notes.txt").write_text("no image")
    assert upscale(source, "-o", output) == 0
    assert tree(output) == ["a.png", "sub/deep/b.BMP"]
    np.testing.assert_array_equal(np.asarray(Image.open(output / "sub" / "deep" / "b.BMP")), repeated(PIXELS[::-1]))
    # The results are neither read again nor made again.
    stamp = (output / "a.png").stat().st_mtime_ns
    capsys.readouterr()
    assert upscale(source, "-o", output) == 0
    assert tree(output) == ["a.png", "sub/deep/b.BMP"] and (output / "a.png").stat().st_mtime_ns == stamp
    err = capsys.readouterr().err
    assert "2 skipped, their results exist (--overwrite makes them anew)" in err and "0 upscaled" in err
    (output / "a.png").write_text("old")
    assert upscale(source, "-o", output, "--overwrite", "--quiet") == 0
    np.testing.assert_array_equal(np.asarray(Image.open(output / "a.png")), repeated(PIXELS))
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("nearest")
@pytest.mark.parametrize("format, kind, within", [("png", "PNG", 0.1), ("jpg", "JPEG", 25), ("webp", "WEBP", 25)])
def test_two_images_of_one_name(tmp_path, format, kind, within):
    source, output = tmp_path / "in", tmp_path / "out"
    for name, pixels in (("a.bmp", PIXELS), ("a.tif", PIXELS[::-1]), ("b.bmp", PIXELS)):
        picture(source / name, pixels)
    assert upscale(source, "-o", output, "--format", format) == 0
    assert tree(output) == [f"a.bmp.{format}", f"a.tif.{format}", f"b.{format}"]
    found = Image.open(output / f"a.tif.{format}")
    assert found.format == kind and np.abs(np.asarray(found).astype(int) - repeated(PIXELS[::-1])).mean() < within


@pytest.mark.usefixtures("nearest")
def test_bad_files_are_listed_and_the_rest_goes_on(tmp_path, capsys):
    source, output = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "c.png"):
        picture(source / name)
    (source / "b.png").write_bytes((source / "a.png").read_bytes()[:90])
    (source / "d.png").touch()
    picture(source / "e.png", np.dstack([PIXELS, PIXELS[..., :1]]))
    picture(source / "f.png", np.zeros((7, 7, 3), np.uint8))
    picture(source / "sub" / "g.png")
    output.mkdir()
    (output / "sub").write_text("a file in place of a folder")
    assert upscale(source, "-o", output, "--format", "jpg", "--max-pixels", 48) == 1
    assert tree(output) == ["a.jpg", "c.jpg", "sub"]
    lines = capsys.readouterr().err.splitlines()
    summary = next(i for i, line in enumerate(lines) if line.startswith("2 upscaled in "))
    assert lines[summary].endswith("5 failed:")
    listed = [line.strip() for line in lines[summary + 1 :]]
    assert [f"error: {line}" for line in listed] == lines[:summary]
    failed = {line.split(": ")[0].removeprefix(f"{source}{os.sep}"): line for line in listed}
    assert sorted(failed) == ["b.png", "d.png", "e.png", "f.png", "sub/g.png"]
    assert "damaged, or not a PNG" in failed["d.png"] and "FileExistsError: " in failed["sub/g.png"]
    assert "transparent in places, which JPEG cannot store" in failed["e.png"]
    message = "7x7 are 49 pixels, expected at most 48; if you trust the file, --max-pixels 49"
    assert message in failed["f.png"]


@pytest.mark.usefixtures("nearest")
def test_stdin_to_stdout(monkeypatch, capsysbinary):
    class Stream:
        buffer = io.BytesIO(BIRD.read_bytes())

    monkeypatch.setattr(sys, "stdin", Stream)
    assert upscale("-", "-o", "-", "--quiet") == 0
    found = Image.open(io.BytesIO(capsysbinary.readouterr().out))
    assert found.format == "PNG"
    np.testing.assert_array_equal(np.asarray(found), repeated(np.asarray(Image.open(BIRD))))


@pytest.mark.usefixtures("nearest")
def test_kinds_of_images_end_to_end(tmp_path):
    grey = np.arange(48, dtype=np.uint16).reshape(6, 8, 1) * 1300
    deep = {"deep.png": np.dstack([grey, grey[::-1], 65535 - grey]), "deepgrey.png": grey}
    made = {"grey.png": PIXELS[..., 0], "alpha.png": np.dstack([PIXELS[..., 0], 255 - PIXELS[..., 1]])}
    for name, pixels in made.items():
        picture(tmp_path / "in" / name, pixels)
    for name, pixels in deep.items():
        (tmp_path / "in" / name).write_bytes(images.encode(images.Picture(pixels, "PNG")))
    assert upscale(tmp_path / "in", "-o", tmp_path / "out") == 0
    for name, pixels in (made | deep).items():
        found = images.read((tmp_path / "out" / name).read_bytes())
        assert found.pixels.dtype == pixels.dtype
        np.testing.assert_array_equal(found.pixels.squeeze(), repeated(pixels.squeeze()))


@pytest.mark.usefixtures("nearest")
def test_metadata_and_orientation_end_to_end(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Model] = 6, "Camera"
    picture(tmp_path / "a.jpg", np.full((8, 16, 3), 90, np.uint8), exif=exif, dpi=(300, 300), icc_profile=b"x" * 200)
    for arguments, software in (([], f"contrast-arch {__version__}, own, X2"), (["--no-metadata"], None)):
        assert (
            upscale(tmp_path / "a.jpg", "-o", tmp_path / "out", "--overwrite", "--model", "x/own.pth", *arguments) == 0
        )
        found = Image.open(tmp_path / "out" / "a.jpg")
        assert found.size == (16, 32) and found.info["dpi"] == (300, 300) and found.info["icc_profile"] == b"x" * 200
        assert found.getexif().get(ExifTags.Base.Model) == "Camera"
        assert found.getexif().get(ExifTags.Base.Orientation) is None
        assert found.getexif().get(ExifTags.Base.Software) == software


@pytest.mark.usefixtures("nearest")
def test_sizes_dry_run_and_quality(tmp_path, capsys):
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "b.png", PIXELS[:2])
    (tmp_path / "in" / "c.png").touch()
    output = tmp_path / "out"
    assert upscale(tmp_path / "in", "-o", output, "--dry-run", "--factor", "3", "--format", "webp") == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{tmp_path}/in/a.png 8x6 -> {output}/a.webp 24x18",
        f"{tmp_path}/in/b.png 8x2 -> {output}/b.webp 24x6",
    ]
    assert f"error: {tmp_path}/in/c.png: damaged, or not a PNG" in err and not output.exists()
    assert upscale(tmp_path / "in" / "a.png", "-o", output, "--out-size", "5", "30") == 0
    assert Image.open(output / "a.png").size == (5, 30)
    assert upscale(tmp_path / "in" / "a.png", "-o", output, "--dry-run") == 0
    assert f"a.png: skipped, {output}/a.png exists" in capsys.readouterr().out
    sizes = []
    for quality in ("20", "90"):
        assert upscale(BIRD, "-o", output / f"{quality}.jpg", "--quality", quality) == 0
        sizes.append((output / f"{quality}.jpg").stat().st_size)
    assert sizes[1] > 2 * sizes[0]


def test_ctrl_c_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    class Interrupted(Nearest):
        def forward(self, x):
            if interrupted.is_set():
                raise KeyboardInterrupt
            interrupted.set()
            return super().forward(x)

    def slow(self, content):
        assert interrupted.wait(10)
        time.sleep(0.2)
        with open(self, "wb") as file:
            file.write(content)

    interrupted = threading.Event()
    monkeypatch.setattr(files, "load", lambda model, device: Interrupted())
    monkeypatch.setattr("pathlib.Path.write_bytes", slow)
    for name in ("a.bmp", "b.bmp", "c.bmp"):
        picture(tmp_path / "in" / name)
    assert upscale(tmp_path / "in", "-o", tmp_path / "out") == 130
    assert "stopped" in capsys.readouterr().err
    # What was being written is whole, and no temporary file is left.
    assert tree(tmp_path / "out") == ["a.bmp"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a.bmp")), repeated(PIXELS))


def test_files_are_read_and_written_beside_the_network(tmp_path, monkeypatch):
    """While the network has the third image, the fourth and the fifth are read, and the second can be written."""

    class Waiting(Nearest):
        def forward(self, x):
            count.append(1)
            if len(count) == 3:
                deadline = time.monotonic() + 10
                while (len(seen) < 5 or not written.exists()) and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert len(seen) == 5 and written.exists()
            return super().forward(x)

    read, seen, count, written = images.read, [], [], tmp_path / "out" / "1.bmp"
    monkeypatch.setattr(images, "read", lambda *arguments: seen.append(1) or read(*arguments))
    monkeypatch.setattr(files, "load", lambda model, device: Waiting())
    for i in range(8):
        picture(tmp_path / "in" / f"{i}.bmp")
    assert upscale(tmp_path / "in", "-o", tmp_path / "out") == 0
    assert len(count) == len(tree(tmp_path / "out")) == 8


@pytest.mark.usefixtures("nearest")
def test_a_progress_bar_on_a_terminal_only(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return self.terminal

    for name in ("a.png", "b.png"):
        picture(tmp_path / "in" / name, np.asarray(Image.open(BIRD)))
    for terminal, more in ((True, []), (True, ["--quiet"]), (False, [])):
        stream = Terminal()
        stream.terminal = terminal
        monkeypatch.setattr(sys, "stderr", stream)
        assert upscale(tmp_path / "in", "-o", tmp_path / "out", "--overwrite", "--tile", "48", *more) == 0
        shown = stream.getvalue()
        if terminal and not more:
            assert "2/2 [" in shown and "image/s" in shown and "tiles:" in shown and "/4 [" in shown
        else:
            assert "\r" not in shown


@pytest.fixture
def folder(tmp_path):
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "other" / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("text")
    return tmp_path


@pytest.mark.parametrize(
    "inputs, output, format, message",
    [
        (["nowhere.png"], "out", "keep", "nowhere.png does not exist; expected an image, a folder of images, or -"),
        (["empty"], "out", "keep", "empty: no images; expected files .png, .jpg"),
        (["in"], "in", "keep", "-o in is the input folder itself; name another one"),
        (["in/a.png"], "in", "keep", "in/a.png would be replaced by a result; name another output"),
        (["in/a.png"], "in/a.png", "keep", "in/a.png would be replaced by a result"),
        (["in", "other"], "out", "keep", "in/a.png and other/a.png would both become out/a.png; upscale them into two"),
        (["in"], "out.png", "keep", "-o out.png: one file for several images; name a folder"),
        (["in"], "-", "keep", "-o -: one file for several images; name a folder"),
        (["in/a.png"], "file.txt", "keep", "-o file.txt is no folder, and no name of an image; expected .png"),
        (["-", "in"], "-", "keep", "- (stdin): expected it as the only input, with -o a file, or - for stdout"),
        (["-"], "out", "keep", "- (stdin): expected it as the only input, with -o a file, or - for stdout"),
    ],
)
def test_plans_that_cannot_be(folder, monkeypatch, inputs, output, format, message):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError) as raised:
        plan(inputs, output, format)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--quality", "0"], "--quality 0: expected more than 0"),
        (["--max-pixels", "0"], "--max-pixels 0: expected more than 0"),
        (["--factor", "0.5"], "factor 0.5, out-size None: expected one of the two, a factor from 1"),
        (["--model", "Nothing"], "no weights Nothing: expected Contrast"),
        (["--device", "quantum"], "device='quantum': "),
        (["--tile", "10"], "tile size=10: expected a multiple of window_size=16"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, capsys, arguments, message):
    assert upscale(BIRD, "-o", tmp_path / "out", *arguments) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
