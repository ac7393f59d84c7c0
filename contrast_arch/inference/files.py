"""Files and folders of images through a network, for ``contrast-arch upscale``.

One thread reads ahead, one writes behind, and the network runs between them.
"""

import math
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from contrast_arch.errors import InputError, one_line
from contrast_arch.files import replacing, resolved
from contrast_arch.images import MAX_PIXELS, content, most_bytes, printable, upright_size
from contrast_arch.inference import encoding, images
from contrast_arch.inference.upscale import Settings, Upscaler
from contrast_arch.memory import device_memory
from contrast_arch.version import __version__

DEFAULT_MODEL = "ContrastNoPE_ssm_ratio2_light_SRx4"
STREAM = "-"
# Of --format: name of the format, and suffix of the results.
FORMATS = {"png": ("PNG", ".png"), "jpg": ("JPEG", ".jpg"), "webp": ("WEBP", ".webp"), "keep": (None, "")}
# Images that are read before their turn, and results that wait to be written.
AHEAD = 2
# RGB in float32, as the network gives it and as it is rounded, and 8 bits of it.
BYTES_PER_RESULT_PIXEL = 27


@dataclass
class Job:
    """An image and where its result goes; None for stdin, stdout and the format of the source."""

    source: Path | None
    target: Path | None
    format: str | None

    @property
    def name(self) -> str:
        """The source, for messages."""
        return "stdin" if self.source is None else printable(str(self.source))


def plan(inputs: list[str], output: str, format: str = "keep") -> list[Job]:
    """List the images of files and folders, and the files of their results.

    Two images of a folder that would get one name, such as a.jpg and a.png as PNG, become a.jpg.png and a.png.png.

    Args:
        inputs: files, folders, or "-" alone for stdin.
        output: a folder; a file or "-" (stdout) for a single image.
        format: of ``FORMATS``.
    """
    if STREAM in inputs and len(inputs) > 1:
        raise InputError(f"- (stdin) beside {len(inputs) - 1} other inputs: expected it alone")
    if output == STREAM and sys.stdout.isatty():
        raise InputError("-o -: stdout is a terminal; send it to a file or a pipe")
    wanted, suffix = FORMATS[format]
    folder = Path(output)
    of_file = None if output == STREAM or folder.is_dir() else images.SUFFIXES.get(folder.suffix.lower())
    if output == STREAM or of_file:
        if len(inputs) > 1 or (inputs != [STREAM] and Path(inputs[0]).is_dir()):
            raise InputError(f"-o {output}: one file for several images; name a folder")
        if of_file and wanted not in (None, of_file):
            raise InputError(f"-o {output} --format {format}: two formats; leave one out")
        source = None if inputs == [STREAM] else _found(inputs, folder)[0][0]
        jobs = [Job(source, folder if of_file else None, of_file or wanted)]
    elif folder.exists() and not folder.is_dir():
        raise InputError(f"-o {output} is no folder, and no name of an image; expected {', '.join(images.SUFFIXES)}")
    elif inputs == [STREAM]:
        raise InputError(f"-o {output}: an image from stdin has no name; name a file, or - for stdout")
    else:
        found = _found(inputs, folder)
        names = [inside.with_suffix(suffix or inside.suffix) for _, inside in found]
        taken = Counter(names)
        jobs = [
            Job(source, folder / (name if taken[name] == 1 else inside.with_name(inside.name + suffix)), wanted)
            for (source, inside), name in zip(found, names, strict=True)
        ]
    _check_targets(jobs)
    return jobs


def _found(inputs, output):
    """Files, each with its path inside the output folder."""
    found = {}  # a file may be named twice, also by a pattern and its folder
    for path in map(Path, inputs):
        if path.is_dir():
            if resolved(path) == resolved(output):
                raise InputError(f"-o {output} is the input folder itself; name another one, it may lie inside")
            inside = sorted(_images_in(path, resolved(output)))
            if not inside:
                raise InputError(
                    f"{path}: no images; expected files {', '.join(images.SUFFIXES)}, in sub-folders or not"
                )
            found |= {(file, file.relative_to(path)): None for file in inside}
        elif path.exists():
            found[path, Path(path.name)] = None
        else:
            raise InputError(f"{path} does not exist; expected an image, a folder of images, or - for stdin")
    return list(found)


def _images_in(folder, output):
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if not name.startswith(".") and resolved(here / name) != output]
        for name in names:
            if Path(name).suffix.lower() in images.SUFFIXES and not name.startswith("."):
                yield here / name


def _check_targets(jobs):
    sources = {resolved(job.source) for job in jobs if job.source}
    targets = {}
    for job in jobs:
        if job.target is None:
            continue
        place = resolved(job.target)
        if place in sources:
            raise InputError(f"{job.name}: its result would replace the input {job.target}; name another output")
        if place in targets:
            raise InputError(
                f"{targets[place].name} and {job.name} would both become {job.target}; upscale them into two folders"
            )
        targets[place] = job


@dataclass
class Options:
    """Options of ``contrast-arch upscale`` beside inputs, output and :class:`Settings`."""

    quality: int = 95
    overwrite: bool = False
    metadata: bool = True
    max_pixels: int = MAX_PIXELS
    quiet: bool = False

    def __post_init__(self):
        if not 1 <= self.quality <= 100:
            raise InputError(f"--quality {self.quality}: expected 1 to 100")
        if self.max_pixels < 1:
            raise InputError(f"--max-pixels {self.max_pixels}: expected 1 or more")


def load(model: str, device: str = "auto") -> torch.nn.Module:
    """Load a network onto a device, "auto" for a GPU if there is one; see :func:`~contrast_arch.load_pretrained`."""
    from contrast_arch import load_pretrained

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_pretrained(model, device=device)


def run(jobs: list[Job], network: torch.nn.Module, model: str, settings: Settings, options: Options) -> int:
    """Upscale images and write the results.

    An image that cannot be read, upscaled or written is named, and the others go on.

    Args:
        jobs: see :func:`plan`.
        network: on its device, in evaluation mode.
        model: its name, for the metadata.

    Returns:
        Number of images that failed.
    """
    todo = [job for job in jobs if options.overwrite or job.target is None or not job.target.exists()]
    upscaler = Upscaler(network, replace(settings, progress=not options.quiet))
    name = Path(model).stem if Path(model).suffix in (".safetensors", ".pth") else Path(model).name
    software = f"contrast-arch {__version__}, {name}, X{upscaler.scale}" if options.metadata else None
    failed, began = [], time.monotonic()

    def say(text):
        if not options.quiet:
            tqdm.write(text, file=sys.stderr)  # above the bar, where there is one

    def read(job):
        return job, _guarded(job, failed, _read, job, upscaler, options.max_pixels)

    def upscaled():
        for job, picture in _in_thread(read, todo):
            if picture is not None:
                pixels = _guarded(job, failed, upscaler.pixels, picture.pixels, picture.kind)
                if pixels is not None:
                    yield job, replace(picture, pixels=pixels)
            bar.update()

    def write(result):
        _guarded(result[0], failed, _write, *result, options.quality, software)

    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} skipped, their results exist (--overwrite makes them anew)")
    # None: on a terminal only.
    with tqdm(total=len(todo), unit="image", disable=True if options.quiet else None) as bar:
        deque(_in_thread(write, upscaled()), maxlen=0)
    done = len(todo) - len(failed)
    say(f"{done} upscaled in {time.monotonic() - began:.1f} s" + (f", {len(failed)} failed:" if failed else ""))
    for line in failed if len(todo) > 1 else ():
        print(f"  {line}", file=sys.stderr)
    return len(failed)


def _in_thread(call: Callable, items: Iterable) -> Iterator:
    """Call with each item in another thread, a few of them ahead of the result that is taken.

    After an interruption the call that runs is finished, and no other is begun.
    """
    with ThreadPoolExecutor(1) as thread:
        waiting = deque()
        try:
            for item in items:
                waiting.append(thread.submit(call, item))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)


def dry_run(jobs: list[Job], network: torch.nn.Module, settings: Settings, options: Options) -> int:
    """Print what :func:`run` would do, by the images' headers; return the number of images that would fail."""
    upscaler = Upscaler(network, settings)
    failed = []
    for job in jobs:
        target = "stdout" if job.target is None else printable(str(job.target))
        if job.source is None:
            print("stdin is not read in a dry run")
        elif job.target is not None and job.target.exists() and not options.overwrite:
            print(f"{job.name}: skipped, {target} exists")
        elif sizes := _guarded(job, failed, _sizes, job, upscaler, options.max_pixels):
            (width, height), (wide, high) = sizes
            print(f"{job.name} {width}x{height} -> {target} {wide}x{high}")
    return len(failed)


def _guarded(job, failed, call, *args):
    """A call's result; None after an error, which is said and kept."""
    try:
        return call(*args)
    except Exception as error:  # of decoders, disks, networks and devices; the others go on
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        failed.append(f"{job.name}: {kind}{one_line(error)}")
        tqdm.write(f"error: {failed[-1]}", file=sys.stderr)
    return None


def _content(job, max_pixels):
    if job.source is not None:
        return content(job.source, max_pixels)
    most = most_bytes(max_pixels)
    if len(found := sys.stdin.buffer.read(most + 1)) > most:
        raise InputError(f"more than {most:,} bytes; expected at most as many, as of the largest image")
    return found


def _sizes(job, upscaler, max_pixels):
    image = images.open_image(_content(job, max_pixels), max_pixels)
    size = upright_size(image)
    return size, _checked(size, upscaler, job.format or image.format)


def _checked(size, upscaler, format):
    upscaler.passes(*size)
    wanted = upscaler.out_size(*size)
    encoding.check_size(*wanted, format)
    memory, needed = device_memory(torch.device("cpu")), BYTES_PER_RESULT_PIXEL * math.prod(wanted)
    if memory is not None and needed > memory.total:
        raise InputError(
            f"its result of {wanted[0]}x{wanted[1]} takes {needed / 2**30:.0f} GiB of memory, and there are "
            f"{memory.total / 2**30:.0f}; cut the image into parts"
        )
    return wanted


def _read(job, upscaler, max_pixels):
    picture = images.read(_content(job, max_pixels), max_pixels)
    picture.format = job.format or picture.format
    _checked(picture.pixels.shape[1::-1], upscaler, picture.format)
    encoding.check_alpha(picture, picture.format)
    return picture


def _write(job, picture, quality, software):
    content = encoding.encode(picture, picture.format, quality, software)
    if job.target is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    job.target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(job.target) as temporary:
        temporary.write_bytes(content)
