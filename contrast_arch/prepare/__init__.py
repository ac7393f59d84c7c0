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
from functools import partial
from pathlib import Path

from tqdm import tqdm

from contrast_arch.errors import InputError
from contrast_arch.files import replacing, resolved
from contrast_arch.prepare.plan import SETTINGS_FILE, Settings, check_output, hr_path, lq_path
from contrast_arch.prepare.sources import find_sources, lmdb_keys
from contrast_arch.prepare.work import Outcome, examine, prepare_image

META_INFO = "meta_info.txt"
REPORT = "prepare_report.txt"


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
        print(_estimate(outcomes, settings))
        print("".join(f"{line}\n" for line in _notes(outcomes, notes)), end="")
        return
    _make_folders(output, settings, roots)
    outcomes = _all(sources, settings, output, processes)
    entries = sorted(entry for outcome in outcomes for entry in outcome.entries)
    lines = _notes(outcomes, [*notes, *_unaccounted(output, settings, entries)])
    with replacing(output / REPORT) as temporary:
        # Notes are about files of all names, also such as the encoding does not have.
        temporary.write_text("".join(f"{line}\n" for line in lines), errors="backslashreplace")
    print("".join(f"{line}\n" for line in lines), end="")
    if not entries:
        raise InputError(f"none of the {len(sources)} images can be used; {output / REPORT} says why")
    with replacing(output / META_INFO) as temporary:
        temporary.write_text("".join(f"{name}.png ({height},{width},3)\n" for name, height, width in entries))
    if lmdb:
        # A part has its image's key, and the end of its own name.
        part_keys = {
            name: keys[outcome.source.name] + name.removeprefix(outcome.source.name)
            for outcome in outcomes
            for name, _, _ in outcome.entries
        }
        _make_lmdbs(output, settings, entries, part_keys)
    used = sum(bool(outcome.entries) for outcome in outcomes)
    made = sum(outcome.made and bool(outcome.entries) for outcome in outcomes)
    print(
        f"{used} images in {len(entries)} HR files under {output}, {made} of them made now; "
        f"{len(sources) - used} left out; {len(lines)} notes in {REPORT}"
    )


def _make_folders(output, settings, roots):
    for _, folder in _folders(output, settings):
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(".*.tmp"):
            unfinished.unlink()
    made_with = {"settings": settings.kept, "roots": [str(root.resolve()) for root in roots]}
    with replacing(output / SETTINGS_FILE) as temporary:
        temporary.write_text(json.dumps(made_with, indent=1) + "\n")


def _all(sources, settings, output, processes) -> list[Outcome]:
    """Prepare every image, in order of the sources."""
    work = partial(prepare_image, settings=settings, output=output)
    bar = partial(tqdm, total=len(sources), desc="prepare", unit="image", smoothing=0)
    try:
        if processes == 1:
            return [work(source) for source in bar(sources)]
        outcomes = [None] * len(sources)
        for i, outcome in bar(_in_parallel(work, sources, processes)):
            outcomes[i] = outcome
        return outcomes
    except BrokenProcessPool as error:
        raise InputError(
            f"a process ended at once, for lack of memory perhaps; try fewer than --processes {processes}. What is "
            "done is kept: the same command goes on"
        ) from error
    except OSError as error:
        raise InputError(f"{error}; what is done is kept: the same command goes on") from error


def _in_parallel(work, items, processes):
    """(position, result) of each item, as they come."""
    # Spawned, since PyTorch's threads do not survive a fork; one thread each, since every core has a process.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread) as executor:
        waiting = {executor.submit(work, item): i for i, item in enumerate(items)}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
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


def _folders(output, settings):
    yield "", hr_path(output, "").parent
    for scale in settings.scales:
        yield f"x{scale}", lq_path(output, "", scale).parent


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
