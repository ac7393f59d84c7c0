"""Kinds of broken images, checkpoints and training states, for mutations.py: each damages a good file in its place."""

import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from contrast_arch import Contrast, MambaLight

NOBODY = 65534


def cut(part: float) -> Callable[[Path], None]:
    """Keep a part of a file."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


def flip(part: float, bit: int = 6) -> Callable[[Path], None]:
    """Flip a bit at a part of a file."""

    def damage(path):
        content = bytearray(path.read_bytes())
        content[int(part * (len(content) - 1))] ^= 1 << bit
        path.write_bytes(content)

    return damage


def as_text(path: Path) -> None:
    path.write_text("This is text.\n" * 20)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_to(target: str) -> Callable[[Path], None]:
    """Put a symbolic link in a file's place; "" is itself."""

    def damage(path):
        path.unlink()
        path.symlink_to(target or path)

    return damage


def unreadable(path: Path) -> None:
    """Take all permissions away; root, for whom there are none, becomes another user."""
    path.chmod(0)
    if os.geteuid() == 0:
        for place in (Path(), *Path().rglob("*")):
            os.lchown(place, NOBODY, NOBODY)
        os.seteuid(NOBODY)


FILES = {
    "0 bytes": cut(0),
    "cut at 1 %": cut(0.01),
    "cut at 50 %": cut(0.5),
    "cut at 99 %": cut(0.99),
    "text": as_text,
    "missing": Path.unlink,
    "a folder": as_folder,
    "a pipe": as_pipe,
    "a link to nothing": link_to("nothing"),
    "a link to itself": link_to(""),
    "a link to /dev/zero": link_to("/dev/zero"),
    "unreadable": unreadable,
    **{f"a bit flipped at {part:.0%}": flip(part) for part in (0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1)},
}


def image(change: Callable[[Image.Image], Image.Image], kind: str = "PNG", **how) -> Callable[[Path], None]:
    """Save an image after a change, as a file of some kind under its old name."""
    return lambda path: change(Image.open(path).convert("RGB")).save(path, kind, **how)


def renamed(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda path: path.rename(path.with_name(change(path.name)))


def huge(path: Path) -> None:
    """Write 100,000 x 100,000 into the header of a PNG."""
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 100_000, 100_000) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


def deep(path: Path) -> None:
    cv2.imwrite(str(path), cv2.imread(str(path)).astype(np.uint16) * 257)


def _same(picture):
    return picture


_turned = Image.Exif()
_turned[0x0112] = 6
IMAGES = FILES | {
    "1 pixel": image(lambda picture: picture.resize((1, 1))),
    "half as large": image(lambda picture: picture.resize((picture.width // 2, picture.height // 2))),
    "a pixel wider": image(lambda picture: picture.resize((picture.width + 1, picture.height))),
    "16 bits": deep,
    "1 bit": image(lambda picture: picture.convert("1")),
    "grey": image(lambda picture: picture.convert("L")),
    "palette": image(lambda picture: picture.convert("P")),
    "alpha": image(lambda picture: picture.convert("RGBA")),
    "CMYK JPEG": image(lambda picture: picture.convert("CMYK"), "JPEG"),
    "float TIFF": image(lambda picture: picture.convert("F"), "TIFF"),
    "animated PNG": image(_same, save_all=True, append_images=[Image.new("RGB", (40, 32))]),
    "animated GIF": image(_same, "GIF", save_all=True, append_images=[Image.new("RGB", (40, 32))]),
    "WebP": image(_same, "WEBP"),
    "EPS": image(_same, "EPS"),
    "EXIF turns it": image(_same, exif=_turned),
    "EXIF turns a JPEG": image(_same, "JPEG", exif=_turned),
    "huge in its header": huge,
    "a name that is not UTF-8": renamed(lambda name: "caf\udce9" + name),
    "a name of 255 bytes": renamed(lambda name: "n" * (255 - len(name)) + name),
    "another suffix": renamed(lambda name: name.replace(".png", ".txt")),
    "capital suffix": renamed(lambda name: name.replace(".png", ".PNG")),
}


class Runs:
    """Pickled, it makes a folder where it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("made",)


def content(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change the content of a .pth file or a state, and save it."""
    return lambda path: torch.save(change(torch.load(path, weights_only=True)), path)


def weights(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    """Change the weights of a checkpoint."""

    def damage(path):
        if path.suffix == ".safetensors":
            save_file(change(load_file(path)), path)
        else:
            content(lambda entries: {name: change(entries[name]) for name in ("params", "params_ema")})(path)

    return damage


def header(text: bytes, length: int | None = None) -> Callable[[Path], None]:
    """Put another header in front of a file, as safetensors has it."""
    return lambda path: path.write_bytes(struct.pack("<Q", length or len(text)) + text + path.read_bytes())


def program(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(3, 3, 1)), path)


def first(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """Change the first of the weights."""
    return weights(lambda found: found | {name: change(found[name]) for name in list(found)[:1]})


TINY = {"dims": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
PICKLES = {
    "a pickle that runs code": lambda path: path.write_bytes(pickle.dumps(Runs())),
    "torch.save of what runs code": content(lambda found: Runs()),
    "code beside the weights": content(lambda found: found | {"more": Runs()}),
    "a list": content(lambda found: [1]),
    "a number": content(lambda found: 1),
    "an empty dict": content(lambda found: {}),
    "TorchScript": program,
    "PyTorch's format before 1.6": lambda path: torch.save(
        torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False
    ),
}
CHECKPOINTS = (
    FILES
    | PICKLES
    | {
        "weights without a key": content(lambda found: found["params"]),
        "averaged weights alone": content(lambda found: {"params_ema": found["params_ema"]}),
        "keys nested": content(lambda found: {"state_dict": found}),
        "another network": weights(lambda found: MambaLight(dims=12, depths=[1, 1]).state_dict()),
        "another scale": weights(lambda found: Contrast(**TINY, upscale=2).state_dict()),
        "other dims": weights(lambda found: Contrast(**(TINY | {"dims": 24})).state_dict()),
        "a weight missing": weights(lambda found: dict(list(found.items())[1:])),
        "a weight more": weights(lambda found: found | {"more": torch.zeros(3)}),
        "NaN": first(lambda value: value * float("nan")),
        "float16": weights(lambda found: {name: value.half() for name, value in found.items()}),
        "float64": weights(lambda found: {name: value.double() for name, value in found.items()}),
        "whole numbers": first(lambda value: value.to(torch.int64)),
        "complex numbers": first(lambda value: value.to(torch.complex64)),
    }
)
SAFETENSORS = FILES | {
    "a header of 1 EB": header(b"{}", 1 << 60),
    "a header that is text": header(b"text"),
    "a header of no tensors": header(b"{}"),
    "a shape beyond the file": header(b'{"a": {"dtype": "F32", "shape": [1000000], "data_offsets": [0, 4]}}'),
    "an unknown kind of number": header(b'{"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}}'),
    "a .pth file": lambda path: shutil.copy(path.with_suffix(".pth"), path),
    "another scale": weights(lambda found: Contrast(**TINY, upscale=2).state_dict()),
    "a weight missing": weights(lambda found: dict(list(found.items())[1:])),
    "NaN": first(lambda value: value * float("nan")),
    "float16": weights(lambda found: {name: value.half() for name, value in found.items()}),
}
STATES = (
    FILES
    | PICKLES
    | {
        "a checkpoint": content(lambda found: {"params": {}}),
        "no optimizer": content(lambda found: found | {"optimizers": []}),
        "the optimizer of another network": content(
            lambda found: found | {"optimizers": [{**found["optimizers"][0], "param_groups": [{"params": [0]}]}]}
        ),
        "no checksums": content(lambda found: found | {"checksums": {}}),
        "an iteration that is text": content(lambda found: found | {"iter": "1", "checksums": {}}),
        "an iteration below 0": content(lambda found: found | {"iter": -1, "checksums": {}}),
        "BasicSR's": content(lambda found: {key: found[key] for key in ("epoch", "iter", "optimizers", "schedulers")}),
    }
)
