"""From folders of HR images to what the option files expect: HR, bicubic LQ, a meta-info file, LMDB where asked for.

OUTPUT/HR/NAME.png, OUTPUT/LR_bicubic/X4/NAMEx4.png (and X2, X3), OUTPUT/meta_info.txt, OUTPUT/prepare.json (what it was
made with) and OUTPUT/prepare_report.txt (what was done to images that are not plain 8-bit RGB, and what was left out).
"""

import importlib.util
import itertools
import json
import math
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from tqdm import tqdm

from contrast_arch.compat import basicsr_in_use
from contrast_arch.errors import InputError
from contrast_arch.files import replacing, resolved
from contrast_arch.images import is_utf8, printable
from contrast_arch.parsing import parse_json
from contrast_arch.prepare.images import Unusable, bicubic, read_header, read_rgb
from contrast_arch.prepare.sources import Source, find_sources

META_INFO, REPORT, SETTINGS_FILE = "meta_info.txt", "prepare_report.txt", "prepare.json"
# The PNG text under which a file names its source, so that another start knows what it can keep.
MARK = "contrast_arch prepare"
# MATLAB's kernel reaches this many LQ pixels over the border, and mirrors no further than the image goes.
SMALLEST_LQ = 4


def run(
    roots: list[Path],
    output: Path,
    scales: tuple[int, ...] = (4,),
    purpose: str = "training",
    gt_size: int | None = None,
    sub_images: int | None = None,
    lmdb: bool = False,
    processes: int = 1,
) -> None:
    """Prepare all images below ``roots``; what an earlier call did is kept.

    Args:
        roots: folders with HR images, in subfolders or not.
        output: the folder of the dataset; made if need be.
        scales: of the LQ images.
        purpose: "training", or "validation", which keeps HR whole.
        gt_size: side of HR patches, pixels; smaller images are left out; None is 64 LQ pixels.
        sub_images: side of the parts that HR is cut into, pixels; None keeps it in one.
        lmdb: also make OUTPUT/HR.lmdb and OUTPUT/LR_bicubic/X4.lmdb (and X2, X3).
        processes: that work at the same time.

    Raises:
        InputError: the settings do not fit, the folders cannot be used as they are, or no image is left.
    """
    smallest, settings = _settings(scales, purpose, gt_size, sub_images)
    scales, output, roots = (1, *sorted(set(scales))), resolved(output), [resolved(root) for root in roots]
    sources, left_out = find_sources(roots, output, cut=sub_images is not None)
    made_with = {"settings": settings, "roots": [*map(str, roots)]}
    check_output(output, made_with)
    unfit = [] if is_utf8(str(output)) else [output]
    unfit += [source.path for source in sources if "." in source.name or not source.name.isascii()]
    if lmdb and importlib.util.find_spec("basicsr.utils.lmdb_util") is None:
        raise InputError(f"--lmdb: BasicSR {basicsr_in_use()} lacks utils/lmdb_util.py; work in another folder")
    if lmdb and unfit:
        text = "LMDB files have ASCII keys that end at the first dot, in folders named in UTF-8; rename it, or leave"
        raise InputError(f"{printable(str(unfit[0]))}: {text} --lmdb out")
    folders = [file_of(output, "", scale).parent for scale in scales]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    _write(output / SETTINGS_FILE, json.dumps(made_with, indent=1) + "\n")
    work = partial(prepare_image, output=output, scales=scales, smallest=smallest, settings=settings)
    found, made, notes = zip(*_all(work, sources, processes), strict=True)
    entries, used = sorted(itertools.chain(*found)), sum(map(bool, found))
    # Those of an image that was deleted since, for example.
    expected = {file_of(output, name, scale) for name, _, _ in entries for scale in scales}
    others = sorted(path for folder in folders for path in folder.iterdir() if path not in expected)
    notes = [*itertools.chain(*notes), *left_out]
    notes += [f"{path}: of no image here; not in {META_INFO}, delete it if it is not wanted" for path in others]
    report = "".join(f"{line}\n" for line in notes)
    print(report, end="")
    # Notes are about files of all names, also such as the encoding does not have.
    _write(output / REPORT, report, errors="backslashreplace")
    if not entries:
        raise InputError(f"none of the {len(sources)} images can be used; {output / REPORT} says why")
    _write(output / META_INFO, "".join(f"{name}.png ({height},{width},3)\n" for name, height, width in entries))
    if lmdb:
        _make_lmdbs(output, scales, entries)
    print(
        f"{used} images in {len(entries)} HR files under {output}, {sum(made)} of them made now; {len(sources) - used} "
        f"left out; {len(notes)} notes in {REPORT}"
    )


def _settings(scales, purpose, gt_size, side):
    """Least side of HR, and the settings that must be the same for all images of a folder; all in pixels of HR."""
    whole, multiple, largest = purpose == "validation", math.lcm(*scales), max(scales)
    if whole and (gt_size, side) != (None, None):
        raise InputError("--for validation keeps images whole; leave --gt-size and --sub-images out")
    smallest = max(SMALLEST_LQ * largest, gt_size or (0 if whole else 64 * largest))
    if side is not None and (side < smallest or side % multiple):
        text = f"expected a multiple of {multiple}, so that HR and LQ are cut alike, and at least --gt-size {smallest}"
        raise InputError(f"--sub-images {side}: {text}")
    multiple, side = 1 if whole else multiple, side or 0
    # The step is from one part to the next.
    return smallest, {"multiple": multiple, "sub_images": side, "step": side // 2 // multiple * multiple}


def check_output(output: Path, made_with: dict) -> None:
    """Refuse an output folder that was made by other settings, or from roots that are not named again."""
    file = output / SETTINGS_FILE
    if not file.exists():
        if found := [folder for folder in (output / "HR", output / "LR_bicubic") if folder.exists()]:
            raise InputError(f"{found[0]} exists already and was not made by this command; name another --output")
        return
    try:
        earlier = parse_json(file.read_text())
        fits = earlier["settings"] == made_with["settings"] and {*earlier["roots"]} <= {*made_with["roots"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error}); name another --output") from error
    if not fits:
        raise InputError(
            f"{output} was prepared with {json.dumps(earlier)}, now asked for is {json.dumps(made_with)} (multiple: "
            "the least common one of the scales, 1 for validation); name the same roots and more, or another --output"
        )


def file_of(output: Path, name: str, scale: int = 1) -> Path:
    """The HR file of a name (scale 1), or the LQ file of a scale."""
    return output / ("HR" if scale == 1 else f"LR_bicubic/X{scale}") / f"{name}{'' if scale == 1 else f'x{scale}'}.png"


def _all(work, sources, processes):
    bar = partial(tqdm, total=len(sources), desc="prepare", unit="image", smoothing=0)
    # Spawned, since PyTorch's threads do not survive a fork; one thread in each, since every core has a process.
    context = multiprocessing.get_context("spawn")
    try:
        if processes == 1:
            return list(bar(map(work, sources)))
        with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as executor:
            return list(bar(executor.map(work, sources)))
    except (OSError, BrokenProcessPool) as error:
        text = "what is done is kept: the same command goes on, with fewer --processes where memory is short"
        raise InputError(f"{error}; {text}") from error


def prepare_image(source: Source, output: Path, scales, smallest: int, settings: dict) -> tuple[list, bool, list[str]]:
    """Write what is missing of an image's HR and LQ files.

    Returns:
        (name, height, width) of the HR files, none where the image is left out; True if any was missing; notes.
    """
    from basicsr.data.transforms import mod_crop

    notes = [f"stored as {source.name}"] if source.name != source.path.stem else []
    entries, made = [], False
    try:
        wide, high, found = read_header(source.path)
        width, height = (side - side % settings["multiple"] for side in (wide, high))
        if min(width, height) < smallest:
            raise Unusable(f"{wide}x{high}, smaller than {smallest}x{smallest}")
        parts, state = _parts(height, width, settings["sub_images"], settings["step"]), source.path.stat()
        made_from = {"source": source.relative, "bytes": state.st_size, "time": state.st_mtime_ns}
        mark = json.dumps(made_from | settings)
        files = {
            file_of(output, source.name + suffix, scale): (scale, *(number // scale for number in place))
            for scale in scales
            for suffix, *place in parts
        }
        if made := not all(_is_there(file, high, wide, mark) for file, (*_, high, wide) in files.items()):
            hr = mod_crop(read_rgb(source.path), settings["multiple"])
            images = {scale: bicubic(mod_crop(hr, scale), 1 / scale) for scale in scales[1:]} | {1: hr}
            for file, (scale, top, left, height, width) in files.items():
                _write_image(file, images[scale][top:, left:][:height, :width], mark)
        entries = [(source.name + suffix, *size) for suffix, _, _, *size in parts]
        notes += found
    except Unusable as error:
        notes.append(f"{error}; left out")
    return entries, made and bool(entries), [f"{source.path}: {note}" for note in notes]


def _parts(height, width, side, step):
    """(suffix of the name, top, left, height, width) of the files that an HR image of this size becomes."""
    if not side or (height <= side and width <= side):
        return [("", 0, 0, height, width)]
    # The last part of an axis is aligned to the border, so that no pixel is lost.
    lasts = (max(0, length - side) for length in (height, width))
    places = itertools.product(*(sorted({*range(0, last, step), last}) for last in lasts))
    return [(f"_s{i:03d}", *place, min(side, height), min(side, width)) for i, place in enumerate(places, start=1)]


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


def _write(path, text, **encoding):
    with replacing(path) as temporary:
        temporary.write_text(text, **encoding)


def _make_lmdbs(output, scales, entries):
    """BasicSR's LMDB of HR and of each scale; HR and LQ have the same keys, as its datasets expect."""
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    names = [name for name, _, _ in entries]
    # BasicSR's own estimate goes by the first image, and fails where others are larger.
    most = sum(3 * height * width + 2**13 for _, height, width in entries) + 2**20
    for scale in scales:
        files = [file_of(output, name, scale) for name in names]
        target = files[0].parent.with_suffix(".lmdb")
        unfinished = target.with_name(f".{target.stem}.tmp.lmdb")
        shutil.rmtree(unfinished, ignore_errors=True)
        make_lmdb_from_imgs(str(files[0].parent), str(unfinished), [file.name for file in files], names, map_size=most)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
