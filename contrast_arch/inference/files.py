"""Files and folders of images through a network, for ``contrast-arch upscale``.

One thread reads ahead, one writes behind, and the network runs between them.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from contrast_arch.errors import InputError, one_line
from contrast_arch.files import replacing, resolved
from contrast_arch.images import MAX_PIXELS, content, printable
from contrast_arch.inference import images
from contrast_arch.inference.upscale import Upscaler
from contrast_arch.memory import device_memory

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
    picture: images.Picture | None = None

    def __str__(self) -> str:
        return printable(str(self.source or "stdin"))

    def is_done(self) -> bool:
        """True if the result exists."""
        return self.target is not None and self.target.exists()


def plan(inputs: list[str], output: str, format: str = "keep") -> list[Job]:
    """List the images of files and folders, and the files of their results.

    Two images of a folder that would get one name, such as a.jpg and a.png as PNG, become a.jpg.png and a.png.png.

    Args:
        inputs: files, folders, or "-" alone for stdin.
        output: a folder; a file, whose suffix decides on the format, or "-" (stdout) for a single image.
        format: of ``FORMATS``.
    """
    wanted, suffix = FORMATS[format]
    folder = Path(output)
    of_file = None if output == STREAM or folder.is_dir() else images.SUFFIXES.get(folder.suffix.lower())
    single = output == STREAM or of_file is not None
    if STREAM in inputs and not (single and len(inputs) == 1):
        raise InputError("- (stdin): expected it as the only input, with -o a file, or - for stdout")
    if single and (len(inputs) > 1 or Path(inputs[0]).is_dir()):
        raise InputError(f"-o {output}: one file for several images; name a folder")
    if not single and folder.exists() and not folder.is_dir():
        raise InputError(f"-o {output} is no folder, and no name of an image; expected {', '.join(images.SUFFIXES)}")
    target = folder if of_file else None
    if STREAM in inputs:
        return [Job(None, target, of_file or wanted)]
    found = [pair for path in map(Path, inputs) for pair in _found(path, folder)]
    names = [inside.with_suffix(suffix or inside.suffix) for _, inside in found]
    taken, jobs = Counter(names), {}
    for (source, inside), name in zip(found, names, strict=True):
        if not single:
            target = folder / (name if taken[name] == 1 else inside.with_name(inside.name + suffix))
        job = Job(source, target, of_file or wanted)
        other = jobs.setdefault(target and resolved(target), job)
        if other is not job:
            raise InputError(f"{other} and {job} would both become {target}; upscale them into two folders")
    for job in jobs.values():
        if resolved(job.source) in jobs:
            raise InputError(f"{job.source} would be replaced by a result; name another output")
    return list(jobs.values())


def _found(path, output):
    """Images of an input, each with its path inside the output folder."""
    if not path.exists():
        raise InputError(f"{path} does not exist; expected an image, a folder of images, or - for stdin")
    if not path.is_dir():
        return [(path, Path(path.name))]
    if resolved(path) == resolved(output):
        raise InputError(f"-o {output} is the input folder itself; name another one, it may lie inside")
    found = [
        (file, file.relative_to(path))
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in images.SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and not resolved(file.parent).is_relative_to(resolved(output))
        and not file.is_dir()
    ]
    if not found:
        raise InputError(f"{path}: no images; expected files {', '.join(images.SUFFIXES)}, in sub-folders or not")
    return found


def load(model: str, device: str = "auto") -> torch.nn.Module:
    """Load a network onto a device, "auto" for a GPU if there is one; see :func:`~contrast_arch.load_pretrained`."""
    from contrast_arch import load_pretrained

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_pretrained(model, device=device)


def run(
    jobs: list[Job],
    upscaler: Upscaler,
    software: str | None = None,
    *,
    quality: int = 95,
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
    quiet: bool = False,
) -> int:
    """Upscale images and write the results; one that fails is named, and the others go on.

    Args:
        software, quality: see :func:`~contrast_arch.inference.images.encode`.
        overwrite: make results anew that exist.
        max_pixels: images of more are refused.
        quiet: print errors only.

    Returns:
        Number of images that failed.
    """
    todo = [job for job in jobs if overwrite or not job.is_done()]
    failed, began = [], time.monotonic()
    read = partial(_attempt, failed, _read, upscaler, max_pixels)
    write = partial(_attempt, failed, _write, quality, software)

    def upscaled():
        for job in _in_thread(read, todo):
            if job and _attempt(failed, _upscale, upscaler, job):
                yield job
            bar.update()

    if len(todo) < len(jobs) and not quiet:
        print(f"{len(jobs) - len(todo)} skipped, their results exist (--overwrite makes them anew)", file=sys.stderr)
    # None: on a terminal only.
    with tqdm(total=len(todo), unit="image", disable=True if quiet else None) as bar:
        deque(_in_thread(write, upscaled()), maxlen=0)
    if not quiet:
        done = f"{len(todo) - len(failed)} upscaled in {time.monotonic() - began:.1f} s"
        print(f"{done}, {len(failed)} failed:" if failed else done, file=sys.stderr)
    for line in failed if len(todo) > 1 else ():
        print(f"  {line}", file=sys.stderr)
    return len(failed)


def dry_run(jobs: list[Job], upscaler: Upscaler, overwrite: bool = False, max_pixels: int = MAX_PIXELS) -> int:
    """Read the images and print what :func:`run` would do; return the number of images that would fail."""
    failed = []
    for job in jobs:
        target = printable(str(job.target or "stdout"))
        if job.is_done() and not overwrite:
            print(f"{job}: skipped, {target} exists")
        elif _attempt(failed, _read, upscaler, max_pixels, job):
            size, job.picture = job.picture.pixels.shape[1::-1], None
            print("{} {}x{} -> {} {}x{}".format(job, *size, target, *upscaler.out_size(*size)))
    return len(failed)


def _attempt(failed, step, *args):
    """Do a step of a job, the last argument, and return the job; an error is printed and kept, and gives None."""
    job = args[-1]
    try:
        step(*args)
    except Exception as error:  # of decoders, disks, networks and devices; the others go on
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        failed.append(f"{job}: {kind}{one_line(error)}")
        tqdm.write(f"error: {failed[-1]}", file=sys.stderr)  # above the bar, where there is one
        job.picture = None
        return None
    return job


def _read(upscaler, max_pixels, job):
    """Read an image, and refuse it where its result cannot be made or stored."""
    job.picture = images.read(content(job.source, max_pixels), max_pixels)
    job.picture.format = job.format or job.picture.format
    size = job.picture.pixels.shape[1::-1]
    upscaler.passes(*size)
    wide, high = upscaler.out_size(*size)
    images.check(wide, high, job.picture)
    memory, needed = device_memory(torch.device("cpu")), BYTES_PER_RESULT_PIXEL * wide * high
    if memory is not None and needed > memory.total:
        raise InputError(
            f"its result of {wide}x{high} takes {needed / 2**30:.0f} GiB of memory, and there are "
            f"{memory.total / 2**30:.0f}; cut the image into parts"
        )


def _upscale(upscaler, job):
    job.picture.pixels = upscaler.pixels(job.picture.pixels)


def _write(quality, software, job):
    made, job.picture = images.encode(job.picture, quality, software), None
    if job.target is None:
        sys.stdout.buffer.write(made)
        sys.stdout.buffer.flush()
        return
    job.target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(job.target) as temporary:
        temporary.write_bytes(made)


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
