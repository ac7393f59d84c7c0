"""LQ and GT images: which belong together, and whether their sizes do."""

import os.path as osp
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from contrast_arch.errors import InputError

# Opening a header takes about 0.1 ms; of larger datasets this many pairs are looked at, evenly spread.
MOST_PAIRS_CHECKED = 5000
SHAPE = re.compile(r"^\S.*? \((\d+),\s*(\d+),\s*\d+\)")


@dataclass
class Pairs:
    """The images of a dataset, as BasicSR finds them.

    Attributes:
        lq, gt: their paths, or keys of an LMDB; ``gt`` is empty where the dataset has none.
        problems: what is wrong with their names.
        smallest: the shortest side of the GT images (of LQ where there are none) that were looked at.
    """

    lq: list[str]
    gt: list[str]
    problems: list[str] = field(default_factory=list)
    smallest: int | None = None

    def __len__(self):
        return len(self.lq)


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
    """Pairs whose images cannot be read or do not fit each other, the scale or ``gt_size``; sets ``pairs.smallest``.

    Args:
        dataset: its options, ``scale`` and ``phase`` among them.
        every: look at all of them, each read completely; otherwise at the headers of some.
    """
    step = 1 if every else -(-len(pairs) // MOST_PAIRS_CHECKED)
    chosen = list(zip(pairs.lq[::step], pairs.gt[::step] or [None] * len(pairs.lq[::step]), strict=True))
    if dataset["io_backend"]["type"] == "lmdb":
        found = _of_lmdb(dataset, [lq for lq, _ in chosen], bool(pairs.gt), every)
    elif every:
        with ThreadPoolExecutor() as pool:
            tasks = pool.map(lambda paths: _sizes(*paths, completely=True), chosen)
            found = list(_shown(tasks, len(chosen), dataset["phase"]))
    else:
        found = [_sizes(*paths) for paths in chosen]
    wrong, sides = [], []
    for paths, sizes in zip(chosen, found, strict=True):
        if isinstance(sizes, str):
            wrong.append(sizes)
        else:
            sides.append(min(sizes[-1]))
            wrong += _misfit(dataset, paths, sizes)
    pairs.smallest = min(sides, default=None)
    return wrong


def _shown(tasks, total, what) -> Iterator:
    """With a progress bar on a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return tasks
    return tqdm(tasks, total=total, unit="pair", desc=what, disable=None if total > 1 else True, leave=False)


def _sizes(lq, gt, completely=False) -> list[tuple[int, int]] | str:
    """(width, height) of LQ and GT; a text that says which cannot be read."""
    sizes = []
    for path in filter(None, (lq, gt)):
        size = _size(path, path, completely)
        if isinstance(size, str):
            return size
        sizes.append(size)
    return sizes


def _size(name, source, completely):
    try:
        with Image.open(source) as image:
            if completely:
                image.load()
            return image.size
    except Exception as error:  # Pillow's decoders raise many kinds for a broken file
        reason = " ".join(str(error).split())
        return f"{name}: cannot be read as an image{' completely' if completely else ''}: {reason}"


def _of_lmdb(dataset, keys, paired, every):
    """Sizes from the lists of two LMDB files or, if every image is to be read, from the images themselves."""
    roots = [dataset[name] for name in (("dataroot_lq", "dataroot_gt") if paired else ("dataroot_lq",))]
    columns = []
    for root in roots:
        # The first image of each, so that the trainer can open what it lists.
        images = _lmdb_images(root, keys if every else keys[:1])
        columns.append(images if every or isinstance(images[0], str) else _lmdb_list(root, keys))
    rows = zip(*(column if len(column) == len(keys) else column * len(keys) for column in columns), strict=True)
    return [next((size for size in row if isinstance(size, str)), list(row)) for row in rows]


def _lmdb_list(root, keys):
    with open(osp.join(root, "meta_info.txt")) as file:
        found = {line.split(".")[0]: SHAPE.match(line) for line in file}
    sizes = {key: (int(size[2]), int(size[1])) for key, size in found.items() if size}
    return [
        sizes.get(key, f"{key} of {root}: meta_info.txt does not say its size, such as '{key}.png (480,480,3) 1'")
        for key in keys
    ]


def _lmdb_images(root, keys):
    import lmdb

    try:
        # Closed again, since a process may not open it twice.
        with lmdb.open(root, readonly=True, lock=False, readahead=False) as images, images.begin() as reading:
            return [
                _size(f"{key} of {root}", BytesIO(reading.get(key.encode()) or b""), True)
                for key in _shown(keys, len(keys), osp.basename(root))
            ]
    except lmdb.Error as error:
        return [f"{root} cannot be opened: {error}"] * len(keys)


def _misfit(dataset, paths, sizes):
    if len(sizes) == 1:
        return []
    (lq_path, gt_path), ((lq_w, lq_h), (gt_w, gt_h)) = paths, sizes
    scale, gt_size = dataset["scale"], dataset.get("gt_size", 0)
    if dataset["phase"] == "train":
        fits = (gt_w, gt_h) == (lq_w * scale, lq_h * scale)
        if fits and min(gt_w, gt_h) < gt_size:
            return [f"{gt_path} is {gt_w}x{gt_h}, smaller than gt_size {gt_size}: leave it out or lower gt_size"]
    else:
        # In validation BasicSR crops what a scale that does not divide the image leaves over.
        fits = all(0 <= gt - lq * scale < scale for gt, lq in ((gt_w, lq_w), (gt_h, lq_h)))
    if fits:
        return []
    expected = f"{lq_w * scale}x{lq_h * scale}"
    return [f"{lq_path} is {lq_w}x{lq_h}, so at scale {scale} {gt_path} must be {expected}, not {gt_w}x{gt_h}"]
