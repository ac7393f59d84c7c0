"""LQ and GT images: which belong together, and whether their sizes do."""

import contextlib
import math
import os.path as osp
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from contrast_arch import images
from contrast_arch.errors import InputError

# Opening a header takes about 0.1 ms; of larger datasets this many pairs are looked at, evenly spread.
MOST_PAIRS_CHECKED = 5000
# Of the pairs with an EXIF orientation, which have to be decoded, so many are compared unless all are asked for.
MOST_TURNED_CHECKED = 20
# Another turn of LQ must be closer to GT than LQ itself by this factor: LQ of symmetric scenes are alike when turned.
CLOSER = 0.8
SHAPE = re.compile(r"^\S.*? \((\d+),\s*(\d+),\s*\d+\)")


@dataclass
class Pairs:
    """The images of a dataset, as BasicSR finds them.

    Attributes:
        lq, gt: their paths, or keys of an LMDB; ``gt`` is empty where the dataset has none.
        problems: what is wrong with their names.
        results: sizes that the network's results will have, of validation and test images that were looked at.
        looked_at: number of images that were looked at, LQ and GT.
        converted: those of them that BasicSR changes when it reads them as RGB of 8 bits, by what it changes.
    """

    lq: list[str]
    gt: list[str]
    problems: list[str] = field(default_factory=list)
    results: list["Result"] = field(default_factory=list)
    looked_at: int = 0
    converted: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self):
        return len(self.lq)


class Result(NamedTuple):
    """Size of a network's result, and the GT image (the LQ image where there is none) that it belongs to."""

    image: str
    width: int
    height: int


class Seen(NamedTuple):
    """Size of an image as a run reads it, the EXIF orientation that its file gives (1 without one), and what a run
    changes of it when it reads RGB of 8 bits."""

    width: int
    height: int
    orientation: int = 1
    converted: tuple[str, ...] = ()


def find_pairs(dataset: dict) -> Pairs:
    """The pairs of a PairedImageDataset, or the images of a SingleImageDataset.

    Args:
        dataset: its options, with everything that BasicSR needs to find them.

    Raises:
        InputError: a folder or list cannot be read.
    """
    from basicsr.data.data_util import paired_paths_from_lmdb, paired_paths_from_meta_info_file, paths_from_lmdb

    lq, gt, meta = (dataset.get(key) for key in ("dataroot_lq", "dataroot_gt", "meta_info_file"))
    lmdb, single = dataset["io_backend"]["type"] == "lmdb", dataset["type"] == "SingleImageDataset"
    try:
        if lmdb and single:
            return Pairs(paths_from_lmdb(lq), [])
        if lmdb:
            found = paired_paths_from_lmdb([lq, gt], ["lq", "gt"])
        elif meta is not None and single:
            with open(meta) as file:
                return Pairs([osp.join(lq, line.rstrip().split(" ")[0]) for line in file], [])
        elif meta is not None:
            template = dataset.get("filename_tmpl", "{}")
            found = paired_paths_from_meta_info_file([lq, gt], ["lq", "gt"], meta, template)
        elif single:
            return Pairs([osp.join(lq, name) for name in _names(lq)], [])
        else:
            return _from_folders(lq, gt, dataset.get("filename_tmpl", "{}"))
    except (OSError, ValueError) as error:
        raise InputError(f"{error} ({', '.join(filter(None, (lq, gt)))})") from error
    return Pairs([pair["lq_path"] for pair in found], [pair["gt_path"] for pair in found])


def _names(folder):
    from basicsr.utils import scandir

    return sorted(scandir(folder))


def _from_folders(lq, gt, template):
    """As paired_paths_from_folder of BasicSR, which stops at the first that is missing."""
    names, there = _names(gt), set(_names(lq))
    stems = [osp.splitext(name) for name in names]
    expected = [f"{template.format(stem)}{suffix}" for stem, suffix in stems]
    wanted = set(expected)
    problems = [f"{name}: {own} is not in {lq}" for name, own in zip(names, expected, strict=True) if own not in there]
    problems += [f"{osp.join(lq, name)} belongs to no image of {gt}" for name in sorted(there - wanted)]
    return Pairs([osp.join(lq, name) for name in expected], [osp.join(gt, name) for name in names], problems)


def size_problems(dataset: dict, pairs: Pairs, every: bool) -> list[str]:
    """Pairs whose images cannot be read or do not fit each other, the scale or ``gt_size``; fills what ``pairs`` says
    of the images that were looked at.

    Args:
        dataset: its options, ``scale`` and ``phase`` among them.
        every: look at all of them, each read completely; otherwise at the headers of some.
    """
    chosen = _chosen(pairs, every)
    roots = [dataset[key] for key in ("dataroot_lq", "dataroot_gt")[: len(chosen[0])]]
    lmdb = dataset["io_backend"]["type"] == "lmdb"
    with contextlib.ExitStack() as opened:
        try:
            sources = [opened.enter_context(_lmdb_source(root)) for root in roots] if lmdb else [_disk_source] * 2
        except InputError as failure:
            return [str(failure)]
        look = _Look(dataset, sources, every)
        if every:
            with ThreadPoolExecutor() as pool:
                found = list(_shown(pool.map(look, chosen), len(chosen), dataset["phase"]))
        elif lmdb:
            # The first image of each, so that the trainer can open what it lists.
            seen, problem = look(chosen[0])
            found = list(_listed(dataset, roots, chosen)) if seen else [(seen, problem)]
        else:
            found = [look(paths) for paths in chosen]
    if dataset["phase"] != "train":
        # In validation BasicSR crops GT to LQ times the scale.
        pairs.results = [
            Result(paths[-1], *(dataset["scale"] * side for side in (seen[0].width, seen[0].height)))
            for paths, (seen, _) in zip(chosen, found, strict=False)
            if seen
        ]
    for paths, (seen, _) in zip(chosen, found, strict=False):
        pairs.looked_at += len(seen)
        for path, image in zip(paths, seen, strict=False):
            for what in image.converted:
                pairs.converted.setdefault(what, []).append(path)
    return [problem for _, problem in found if problem]


def _chosen(pairs, every):
    """The pairs to look at, (LQ, GT) or (LQ,): evenly spread ones, and one for each kind of file name."""
    paths = list(zip(pairs.lq, pairs.gt, strict=True) if pairs.gt else zip(pairs.lq, strict=True))
    if every or len(paths) <= MOST_PAIRS_CHECKED:
        return paths
    kinds = {tuple(osp.splitext(path)[1] for path in pair): pair for pair in reversed(paths)}
    return list(dict.fromkeys([*paths[:: -(-len(paths) // MOST_PAIRS_CHECKED)], *kinds.values()]))


def _shown(tasks, total, what) -> Iterator:
    """With a progress bar on a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return tasks
    return tqdm(tasks, total=total, unit="pair", desc=what, disable=None if total > 1 else True, leave=False)


def _disk_source(path):
    return path, path


@contextlib.contextmanager
def _lmdb_source(root):
    """Gives the name of an image in messages and a file to read it from, as :func:`_disk_source` does."""
    import lmdb

    try:
        # Closed again, since a process may not open it twice.
        opened = lmdb.open(root, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise InputError(f"{root} cannot be opened: {error}") from error

    def source(key):
        with opened.begin() as reading:
            return f"{key} of {root}", BytesIO(reading.get(key.encode()) or b"")

    with opened:
        yield source


class _Look:
    """Looks at pairs: sizes, and what is wrong with a pair.

    A header says the size of an image, but not that OpenCV decodes it nor that OpenCV turns it. One image of each kind
    is decoded for that.

    Args:
        sources: of LQ and of GT.
        every: decode every image.
    """

    def __init__(self, dataset: dict, sources: list, every: bool):
        self.dataset, self.sources, self.every = dataset, sources, every
        # Kind of image -> True if OpenCV exchanges the width and the height of the header.
        self.known = {}
        self.turned_left = math.inf if every else MOST_TURNED_CHECKED

    def __call__(self, paths) -> tuple[list[Seen], str | None]:
        sources = [source(path) for source, path in zip(self.sources, paths, strict=False)]
        seen = []
        for name, file in sources:
            try:
                seen.append(self._see(file))
            except (OSError, images.Unreadable) as error:
                completely = " completely" if self.every else ""
                return [], f"{name}: cannot be read as an image{completely}: {error}"
        problem = _misfit(self.dataset, paths, seen)
        if not problem and len(seen) == 2 and any(image.orientation != 1 for image in seen) and self.turned_left > 0:
            self.turned_left -= 1
            problem = _turned(self.dataset["scale"], paths, seen, [images.read(_content(file)) for _, file in sources])
        return seen, problem

    def _see(self, file):
        header = _header(file)
        if header is not None and header.kind in self.known and not self.every:
            width, height = header.size[::-1] if self.known[header.kind] else header.size
            return Seen(width, height, header.orientation, header.converted)
        content = _content(file)
        height, width = images.read(content).shape[:2]
        reason = images.damage(content) if self.every else None
        if reason:
            raise images.Unreadable(reason)
        # Where a header says another size than the one decoded, it is not trusted for other files either.
        if header is not None and (width, height) in (header.size, header.size[::-1]):
            self.known[header.kind] = (width, height) != header.size
        return Seen(width, height, *((header.orientation, header.converted) if header is not None else ()))


class _Header(NamedTuple):
    size: tuple[int, int]
    orientation: int
    kind: tuple
    converted: tuple[str, ...]


def _header(file):
    """Read the header of an image by Pillow; None where Pillow cannot."""
    try:
        with Image.open(file, formats=images.FORMATS) as image:
            orientation = _orientation(image)
            exchanged = orientation >= 5 and image.width != image.height
            kind = (image.format, image.mode, image.info.get("compression"), exchanged)
            return _Header(image.size, orientation, kind, tuple(_converted(image)))
    except Exception:  # Pillow's plugins raise many kinds; OpenCV may read it nevertheless
        return None


def _converted(image):
    """Name what OpenCV changes of an image when it decodes RGB of 8 bits; Pillow itself may do so with 16 bits."""
    stored = str(image.tile[0][3]) if image.tile else image.mode
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        yield "alpha"
    if image.mode in ("P", "PA"):
        yield "palette"
    if ";16" in stored:
        yield "16 bits"


def _orientation(image):
    # Not by getexif, which also takes orientations from where OpenCV does not look, and decodes whole PNG files.
    if image.format == "TIFF":
        tags = image.tag_v2
    elif "exif" in image.info:
        tags = Image.Exif()
        tags.load(image.info["exif"])
    else:
        return 1
    orientation = tags.get(ExifTags.Base.Orientation)
    return orientation if orientation in range(2, 9) else 1


def _content(file):
    return file.getvalue() if isinstance(file, BytesIO) else images.content(Path(file))


def _listed(dataset, roots, chosen):
    """Sizes from the lists of LMDB files."""
    columns = [_lmdb_list(root, [paths[0] for paths in chosen]) for root in roots]
    for paths, row in zip(chosen, zip(*columns, strict=True), strict=True):
        problem = next((seen for seen in row if isinstance(seen, str)), None)
        yield ([], problem) if problem else (list(row), _misfit(dataset, paths, row))


def _lmdb_list(root, keys):
    with open(osp.join(root, "meta_info.txt")) as file:
        found = {line.split(".")[0]: SHAPE.match(line) for line in file}
    sizes = {key: Seen(int(size[2]), int(size[1])) for key, size in found.items() if size}
    return [
        sizes.get(key, f"{key} of {root}: meta_info.txt does not say its size, such as '{key}.png (480,480,3) 1'")
        for key in keys
    ]


def _misfit(dataset, paths, seen) -> str | None:
    if len(seen) == 1:
        return None
    (lq_path, gt_path), (lq, gt) = paths, seen
    scale, gt_size = dataset["scale"], dataset.get("gt_size", 0)
    if dataset["phase"] == "train":
        fits = (gt.width, gt.height) == (lq.width * scale, lq.height * scale)
        if fits and min(gt.width, gt.height) < gt_size:
            return f"{gt_path} is {gt.width}x{gt.height}, smaller than gt_size {gt_size}: leave it out or lower gt_size"
    else:
        # In validation BasicSR crops what a scale that does not divide the image leaves over.
        fits = all(0 <= large - small * scale < scale for large, small in zip(gt[:2], lq[:2], strict=True))
    if fits:
        return None
    expected = f"{lq.width * scale}x{lq.height * scale}"
    text = f"{lq_path} is {lq.width}x{lq.height}, so at scale {scale} {gt_path} must be {expected}, not "
    return f"{text}{gt.width}x{gt.height}{_orientations(seen)}"


def _orientations(seen) -> str:
    """For a message: the EXIF orientations of LQ and GT, where there are any."""
    if all(image.orientation == 1 for image in seen):
        return ""
    return (
        f" (EXIF orientations: LQ {seen[0].orientation}, GT {seen[1].orientation}; OpenCV, which BasicSR reads with, "
        "turns images by them; store both upright, without EXIF)"
    )


def _turned(scale, paths, seen, pixels) -> str | None:
    """Say that LQ and GT of fitting sizes show the same scene, but turned or mirrored."""
    import cv2

    lq, gt = pixels
    height, width = lq.shape[:2]
    small = cv2.resize(gt[: height * scale, : width * scale], (width, height), interpolation=cv2.INTER_AREA)
    small = small.astype(np.int16)
    views = [np.rot90(view, quarters) for view in (lq, lq[:, ::-1]) for quarters in range(4)]
    as_read, *others = (np.abs(small - view).mean() for view in views if view.shape == small.shape)
    if min(others) >= CLOSER * as_read:
        return None
    return f"{paths[0]} shows {paths[1]} turned or mirrored{_orientations(seen)}"
