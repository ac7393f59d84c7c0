"""From folders of HR images to what the option files expect: HR, bicubic LQ, a meta-info file, LMDB where asked for.

OUTPUT/HR/NAME.png, OUTPUT/LR_bicubic/X4/NAMEx4.png (and X2, X3), OUTPUT/meta_info.txt, OUTPUT/prepare.json (what it was
made with) and OUTPUT/prepare_report.txt (what was done to images that are not plain 8-bit RGB, and what was left out).
"""

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin
from tqdm import tqdm

from contrast_arch.errors import InputError
from contrast_arch.files import replacing, resolved
from contrast_arch.images import is_utf8, printable
from contrast_arch.prepare.images import Unusable, bicubic, crop_to_multiple, read_header, read_rgb
from contrast_arch.prepare.plan import SETTINGS_FILE, Settings, check_output, file_of, parts
from contrast_arch.prepare.sources import Source, find_sources

META_INFO = "meta_info.txt"
REPORT = "prepare_report.txt"
# The PNG text under which a file names its source, so that another start knows what it can keep.
MARK = "contrast_arch prepare"


@dataclass
class Outcome:
    """Result of one image.

    Attributes:
        entries: (name, height, width) of the HR files, none where the image was left out.
        made: True if anything was missing.
        notes: what was done to the image, or why it was left out.
    """

    source: Source
    entries: list[tuple[str, int, int]] = field(default_factory=list)
    made: bool = False
    notes: list[str] = field(default_factory=list)


def prepare_image(source: Source, settings: Settings, output: Path) -> Outcome:
    """Write what is missing of an image's HR and LQ files."""
    outcome = Outcome(source)
    if source.name != source.path.stem:
        outcome.notes.append(f"stored as {source.name}")
    try:
        _prepare(outcome, settings, output)
    except Unusable as error:
        outcome.entries = []
        outcome.notes.append(f"{error}; left out")
    return outcome


def _prepare(outcome, settings, output):
    source, scales = outcome.source, (1, *settings.scales)
    header = read_header(source.path)
    height, width = (side - side % settings.multiple for side in (header.height, header.width))
    if min(height, width) < settings.smallest:
        raise Unusable(f"{header.width}x{header.height}, smaller than {settings.smallest}x{settings.smallest}")
    outcome.notes += header.notes
    outcome.entries = [(source.name + suffix, h, w) for suffix, _, _, h, w in parts(height, width, settings)]
    state = source.path.stat()
    made_from = {"source": source.relative, "bytes": state.st_size, "time": state.st_mtime_ns}
    mark = json.dumps(made_from | settings.kept)
    if all(
        _is_there(file_of(output, name, scale), high // scale, wide // scale, mark)
        for name, high, wide in outcome.entries
        for scale in scales
    ):
        return
    outcome.made = True
    hr = crop_to_multiple(read_rgb(source.path, header), settings.multiple)
    for scale in scales:
        image = hr if scale == 1 else bicubic(crop_to_multiple(hr, scale), 1 / scale)
        for suffix, *place in parts(height, width, settings):
            top, left, high, wide = (number // scale for number in place)
            _write_image(file_of(output, source.name + suffix, scale), image[top:, left:][:high, :wide], mark)


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


def run(roots: list[Path], output: Path, settings: Settings, processes: int, lmdb: bool = False) -> None:
    """Prepare all images below ``roots``; what an earlier call did is kept.

    Args:
        roots: folders with HR images, in subfolders or not.
        output: the folder of the dataset; made if need be.
        settings: of :func:`contrast_arch.prepare.plan.make_settings`.
        processes: that work at the same time.
        lmdb: also make OUTPUT/HR.lmdb and OUTPUT/LR_bicubic/X4.lmdb (and X2, X3).

    Raises:
        InputError: the folders cannot be used as they are, or no image is left.
    """
    output, roots = resolved(output), [resolved(root) for root in roots]
    sources, notes = find_sources(roots, output, settings.sub_images > 0)
    check_output(output, roots, settings)
    if lmdb and not is_utf8(str(output)):
        raise InputError(
            f"{printable(str(output))}: OpenCV, which makes LMDB files, takes UTF-8 only; leave --lmdb out"
        )
    for source in sources if lmdb else ():
        if "." in source.name or not source.name.isascii():
            raise InputError(
                f"{source.path}: keys of LMDB files are ASCII and end at the first dot; rename it, or leave --lmdb out"
            )
    folders = [file_of(output, "", scale).parent for scale in (1, *settings.scales)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(".*.tmp"):
            unfinished.unlink()
    made_with = {"settings": settings.kept, "roots": [*map(str, roots)]}
    _write(output / SETTINGS_FILE, json.dumps(made_with, indent=1) + "\n")
    outcomes = _outcomes(partial(prepare_image, settings=settings, output=output), sources, processes)
    entries = sorted(entry for outcome in outcomes for entry in outcome.entries)
    notes = [f"{outcome.source.path}: {note}" for outcome in outcomes for note in outcome.notes] + notes
    # Those of an image that was deleted since, for example.
    expected = {file_of(output, name, scale) for name, _, _ in entries for scale in (1, *settings.scales)}
    others = sorted(path for folder in folders for path in folder.iterdir() if path not in expected)
    notes += [f"{path}: of no image here; not in {META_INFO}, delete it if it is not wanted" for path in others]
    report = "".join(f"{line}\n" for line in notes)
    print(report, end="")
    # Notes are about files of all names, also such as the encoding does not have.
    _write(output / REPORT, report, errors="backslashreplace")
    if not entries:
        raise InputError(f"none of the {len(sources)} images can be used; {output / REPORT} says why")
    _write(output / META_INFO, "".join(f"{name}.png ({height},{width},3)\n" for name, height, width in entries))
    if lmdb:
        _make_lmdbs(output, settings, entries)
    used = [outcome for outcome in outcomes if outcome.entries]
    print(
        f"{len(used)} images in {len(entries)} HR files under {output}, {sum(outcome.made for outcome in used)} of "
        f"them made now; {len(sources) - len(used)} left out; {len(notes)} notes in {REPORT}"
    )


def _make_lmdbs(output, settings, entries):
    """BasicSR's LMDB of HR and of each scale; HR and LQ have the same keys, as its datasets expect."""
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    names = [name for name, _, _ in entries]
    # BasicSR's own estimate goes by the first image, and fails where others are larger.
    most = sum(3 * height * width + 2**13 for _, height, width in entries) + 2**20
    for scale in (1, *settings.scales):
        files = [file_of(output, name, scale) for name in names]
        target = files[0].parent.with_suffix(".lmdb")
        unfinished = target.with_name(f".{target.stem}.tmp.lmdb")
        shutil.rmtree(unfinished, ignore_errors=True)
        make_lmdb_from_imgs(str(files[0].parent), str(unfinished), [file.name for file in files], names, map_size=most)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)


def _write(path, text, **encoding):
    with replacing(path) as temporary:
        temporary.write_text(text, **encoding)


def _outcomes(work, sources, processes) -> list[Outcome]:
    bar = partial(tqdm, total=len(sources), desc="prepare", unit="image", smoothing=0)
    try:
        if processes == 1:
            return list(bar(map(work, sources)))
        # Spawned, since PyTorch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_process) as executor:
            return list(bar(executor.map(work, sources)))
    except BrokenProcessPool as error:
        raise InputError(
            f"a process ended at once, for lack of memory perhaps; try fewer than --processes {processes}. What is "
            "done is kept: the same command goes on"
        ) from error
    except OSError as error:
        raise InputError(f"{error}; what is done is kept: the same command goes on") from error


def _start_process():
    import torch

    from contrast_arch import compat

    # Every core has a process.
    torch.set_num_threads(1)
    compat.require_basicsr()
