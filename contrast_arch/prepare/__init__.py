"""From folders of HR images to what the option files expect: HR, bicubic LQ, a meta-info file, LMDB where asked for.

OUTPUT/HR/NAME.png, OUTPUT/LR_bicubic/X4/NAMEx4.png (and X2, X3), OUTPUT/meta_info.txt, OUTPUT/prepare.json (what it was
made with) and OUTPUT/prepare_report.txt (what was done to images that are not plain 8-bit RGB, and what was left out).
"""

import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin
from tqdm import tqdm

from contrast_arch.errors import InputError
from contrast_arch.files import replacing, resolved
from contrast_arch.prepare.images import Header, Unusable, bicubic_lq, crop_to_multiple, read_header, read_rgb
from contrast_arch.prepare.plan import SETTINGS_FILE, Settings, check_output, file_of, parts
from contrast_arch.prepare.sources import Source, find_sources, lmdb_keys

META_INFO = "meta_info.txt"
REPORT = "prepare_report.txt"
# The PNG text under which a file names its source, so that another start knows what it can keep.
MARK = "contrast_arch prepare"


@dataclass
class Outcome:
    """Result of one image.

    Attributes:
        entries: (name, height, width) of the HR files, none where the image was left out.
        made: whether anything was missing.
        notes: what was done to the image, or why it was left out.
    """

    source: Source
    entries: list[tuple[str, int, int]] = field(default_factory=list)
    made: bool = False
    notes: list[str] = field(default_factory=list)


def examine(source: Source, settings: Settings) -> tuple[Outcome, Header | None]:
    """Predict the files of an image from its header alone; return them and the header (None if it is left out)."""
    outcome = Outcome(source, notes=list(source.notes))
    try:
        header = read_header(source.path)
        height, width = (side - side % settings.multiple for side in (header.height, header.width))
        if min(height, width) < settings.smallest:
            size, least = f"{header.width}x{header.height}", f"{settings.smallest}x{settings.smallest}"
            raise Unusable(f"{size}, smaller than {least}")
    except Unusable as error:
        outcome.notes.append(f"{error}; left out")
        return outcome, None
    outcome.notes += header.notes
    outcome.entries = [(source.name + suffix, h, w) for suffix, _, _, h, w in parts(height, width, settings)]
    return outcome, header


def prepare_image(source: Source, settings: Settings, output: Path) -> Outcome:
    """Write what is missing of an image's HR and LQ files."""
    outcome, header = examine(source, settings)
    if header is None:
        return outcome
    state, scales = source.path.stat(), (1, *settings.scales)
    made_from = {"source": source.relative, "bytes": state.st_size, "time": state.st_mtime_ns}
    mark = json.dumps(made_from | settings.kept)
    if all(
        _is_there(file_of(output, name, scale), height // scale, width // scale, mark)
        for name, height, width in outcome.entries
        for scale in scales
    ):
        return outcome
    outcome.made = True
    try:
        pixels = read_rgb(source.path, header)
    except Unusable as error:
        outcome.notes.append(f"{error}; left out")
        outcome.entries = []
        return outcome
    hr = crop_to_multiple(pixels, settings.multiple)
    for scale in scales:
        image = hr if scale == 1 else bicubic_lq(crop_to_multiple(hr, scale), scale)
        for suffix, *place in parts(*hr.shape[:2], settings):
            top, left, height, width = (number // scale for number in place)
            part = image[top : top + height, left : left + width]
            _write_image(file_of(output, source.name + suffix, scale), part, mark)
    return outcome


def _is_there(path, height, width, mark):
    try:
        with Image.open(path) as image:
            return image.size == (width, height) and image.info.get(MARK) == mark
    except OSError:
        return False


def _write_image(path, pixels, mark):
    text = PngImagePlugin.PngInfo()
    text.add_text(MARK, mark)
    with replacing(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, "PNG", pnginfo=text, compress_level=3)


def run(
    roots: list[Path], output: Path, settings: Settings, processes: int, lmdb: bool = False, dry_run: bool = False
) -> None:
    """Prepare all images below ``roots``; what an earlier call did is kept.

    Args:
        roots: folders with HR images, in subfolders or not.
        output: the folder of the dataset; made if need be.
        settings: of :func:`contrast_arch.prepare.plan.make_settings`.
        processes: that work at the same time.
        lmdb: also make OUTPUT/HR.lmdb and OUTPUT/LR_bicubic/X4.lmdb (and X2, X3).
        dry_run: only say what would be done.

    Raises:
        InputError: the folders cannot be used as they are, or no image is left.
    """
    output = resolved(output)
    cut = settings.sub_images > 0
    sources, notes = find_sources(roots, output, cut)
    check_output(output, roots, settings)
    if lmdb:
        _check_lmdb(sources, output)
        keys = lmdb_keys(sources, cut)
        notes += [
            f"{source.path}: {keys[source.name]} in the LMDB files, since BasicSR ends a key at a dot"
            for source in sources
            if keys[source.name] != source.name
        ]
    if dry_run:
        outcomes = [examine(source, settings)[0] for source in tqdm(sources, desc="headers", unit="image")]
        print(_estimate(outcomes, settings), *_notes(outcomes, notes), sep="\n")
        return
    _make_folders(output, settings, roots)
    outcomes = _all(sources, settings, output, processes)
    entries = sorted(entry for outcome in outcomes for entry in outcome.entries)
    lines = _notes(outcomes, [*notes, *_unaccounted(output, settings, entries)])
    report = "".join(f"{line}\n" for line in lines)
    print(report, end="")
    # Notes are about files of all names, also such as the encoding does not have.
    _write(output / REPORT, report, errors="backslashreplace")
    if not entries:
        raise InputError(f"none of the {len(sources)} images can be used; {output / REPORT} says why")
    _write(output / META_INFO, "".join(f"{name}.png ({height},{width},3)\n" for name, height, width in entries))
    if lmdb:
        # A part has its image's key, and the end of its own name.
        part_keys = {
            name: keys[outcome.source.name] + name.removeprefix(outcome.source.name)
            for outcome in outcomes
            for name, _, _ in outcome.entries
        }
        _make_lmdbs(output, settings, entries, part_keys)
    used = [outcome for outcome in outcomes if outcome.entries]
    print(
        f"{len(used)} images in {len(entries)} HR files under {output}, {sum(outcome.made for outcome in used)} of "
        f"them made now; {len(sources) - len(used)} left out; {len(lines)} notes in {REPORT}"
    )


def _write(path, text, **encoding):
    with replacing(path) as temporary:
        temporary.write_text(text, **encoding)


def _folders(output, settings):
    """(suffix of its files' names, folder) of HR and of each scale."""
    scales = ((f"x{scale}", scale) for scale in settings.scales)
    return [(suffix, file_of(output, "", scale).parent) for suffix, scale in (("", 1), *scales)]


def _make_folders(output, settings, roots):
    for _, folder in _folders(output, settings):
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(".*.tmp"):
            unfinished.unlink()
    made_with = {"settings": settings.kept, "roots": [str(root.resolve()) for root in roots]}
    _write(output / SETTINGS_FILE, json.dumps(made_with, indent=1) + "\n")


def _all(sources, settings, output, processes) -> list[Outcome]:
    """Prepare every image, in order of the sources."""
    work = partial(prepare_image, settings=settings, output=output)
    bar = partial(tqdm, total=len(sources), desc="prepare", unit="image", smoothing=0)
    # Spawned, since PyTorch's threads do not survive a fork; one thread each, since every core has a process.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread)
    try:
        if processes == 1:
            return [work(source) for source in bar(sources)]
        waiting = [executor.submit(work, source) for source in sources]
        for future in bar(as_completed(waiting)):
            future.result()
        return [future.result() for future in waiting]
    except BrokenProcessPool as error:
        raise InputError(
            f"a process ended at once, for lack of memory perhaps; try fewer than --processes {processes}. What is "
            "done is kept: the same command goes on"
        ) from error
    except OSError as error:
        raise InputError(f"{error}; what is done is kept: the same command goes on") from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _one_thread():
    import torch

    from contrast_arch import compat

    torch.set_num_threads(1)
    compat.require_basicsr()


def _notes(outcomes, others) -> list[str]:
    return [f"{outcome.source.path}: {note}" for outcome in outcomes for note in outcome.notes] + others


def _unaccounted(output, settings, entries):
    """Files in the output that none of the images accounts for, such as those of an image that was deleted since."""
    names = {name for name, _, _ in entries}
    for suffix, folder in _folders(output, settings):
        expected = {f"{name}{suffix}.png" for name in names}
        for path in sorted(folder.iterdir()):
            if path.name not in expected:
                yield f"{path}: of no image here; not in {META_INFO}, delete it if it is not wanted"


def _estimate(outcomes, settings):
    used = [outcome for outcome in outcomes if outcome.entries]
    sizes = [height * width for outcome in used for _, height, width in outcome.entries]
    pixels = sum(sizes) * (1 + sum(1 / scale**2 for scale in settings.scales))
    scales = ", ".join(f"X{scale}" for scale in settings.scales)
    return (
        f"{len(used)} of {len(outcomes)} images would be used: {len(sizes)} HR files, as many LQ files for each of "
        f"{scales}; {sum(sizes) / 1e6:.1f} million HR pixels, {3 * pixels / 2**30:.2f} GiB of pixels in all "
        "(as PNG, photographs take half to two thirds of that). Whether files are damaged is not known before they are "
        "decoded."
    )


def _check_lmdb(sources, output):
    # OpenCV, with which BasicSR reads the images, ends the process by a segmentation fault at other paths.
    try:
        os.fsencode(output).decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{output}: LMDB takes paths in UTF-8 only; name another --output, or leave --lmdb out"
        ) from error
    for source in sources:
        if not source.name.isascii():
            raise InputError(
                f"{source.path}: LMDB takes names of ASCII characters only; rename it, or leave --lmdb out"
            )


def _make_lmdbs(output, settings, entries, keys):
    """BasicSR's LMDB of HR and of each scale; HR and LQ have the same keys, as its datasets expect."""
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    names = [name for name, _, _ in entries]
    # BasicSR's own estimate goes by the first image, and fails where others are larger.
    most = sum(3 * height * width + 2**13 for _, height, width in entries) + 2**20
    for suffix, folder in _folders(output, settings):
        target = folder.with_name(f"{folder.name}.lmdb")
        unfinished = folder.with_name(f".{folder.name}.tmp.lmdb")
        shutil.rmtree(unfinished, ignore_errors=True)
        files = [f"{name}{suffix}.png" for name in names]
        make_lmdb_from_imgs(str(folder), str(unfinished), files, [keys[name] for name in names], map_size=most)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
