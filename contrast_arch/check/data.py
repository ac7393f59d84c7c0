"""The datasets of an option file: folders, lists, and the pairs and sizes of the images in them."""

import os
import os.path as osp
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from contrast_arch import images
from contrast_arch.check.context import Run, Section, reported
from contrast_arch.check.parts import NEEDED, OF_PAIRS, error_of, registered
from contrast_arch.errors import InputError, one_line
from contrast_arch.images import is_utf8, printable
from contrast_arch.options.document import Problem
from contrast_arch.options.validation import DATASETS, KNOWN_MODELS

BACKENDS = ("disk", "lmdb", "memcached")
# Opening a header takes about 0.1 ms; of larger datasets this many pairs are looked at, evenly spread.
MOST_PAIRS_CHECKED = 5000
MOST_SHOWN = {False: 5, True: 1000}
CONVERTED = {
    "alpha": "alpha, which is dropped",
    "palette": "a palette, whose colors are read",
    "16 bits": "16 bits a channel, of which 8 are read",
    "EXIF": "an EXIF orientation, by which OpenCV turns them whether or not LQ was made so",
}


@dataclass
class Images:
    """The images of a dataset, as BasicSR finds them."""

    lq: list[str]  # paths, or keys of an LMDB
    gt: list[str] = field(default_factory=list)  # none where the dataset has none
    problems: list[str] = field(default_factory=list)  # that cannot be read, or do not fit each other
    # Of validation and test: GT image (LQ image without GT), width and height of the network's result.
    results: list[tuple[str, int, int]] = field(default_factory=list)
    looked_at: int = 0
    # Those that are changed when BasicSR reads them as RGB of 8 bits, by the kind of the change.
    converted: dict[str, list[str]] = field(default_factory=dict)


def dataset_problems(run: Run) -> Iterator[Problem]:
    """Find errors of each dataset, and of its images."""
    for dataset in run.opt.sections("datasets"):
        if run.context.is_train and dataset.path[-1] != "train" and dataset["phase"] != "val":
            yield dataset.error("BasicSR trains with 'train', 'val' and 'val_...'; rename it")
        elif dataset["phase"] not in ("train", "val", "test"):
            yield dataset.error("BasicSR tests on 'test', 'test_...', 'val' and 'val_...'; rename it")
        if dataset["type"] is not None:
            yield from _dataset_problems(run, dataset)


@reported
def _dataset_problems(run, dataset):
    kind, model = dataset["type"], run.opt["model_type"]
    cls = registered(dataset.where("type"), kind, "DATASET_REGISTRY")
    # Nothing is known of models of others.
    if model in KNOWN_MODELS and cls.__module__.startswith("basicsr."):
        if cls.__name__ not in DATASETS:
            raise InputError(f"{dataset.where('type')}: {model} cannot use {kind}; expected {', '.join(DATASETS)}")
        if kind == "SingleImageDataset" and run.context.is_train and dataset["phase"] == "train":
            raise InputError(f"{dataset.where('type')}: training needs GT images, and {kind} has none")
        if kind not in NEEDED and (fault := error_of(cls, dict(dataset))):
            raise InputError(f"{dataset.where()}: {kind}: {fault}")
    # The datasets of some projects take several folders.
    if not any(isinstance(dataset[key], list) for key in OF_PAIRS):
        problems = list(_key_problems(run, dataset))
        yield from problems
        complete = not any(path[:2] == dataset.path for path in run.unfit)
        if complete and kind in NEEDED and not any(problem.fatal for problem in problems):
            yield from _image_problems(run, dataset, cls)


def _key_problems(run, dataset):
    """Find keys of a dataset that contradict each other, and paths that do not exist."""
    kind, trains = dataset["type"], dataset["phase"] == "train"
    for key in NEEDED.get(kind, ()):
        if key not in dataset:
            yield dataset.error(f"missing; {kind} needs it", key)
    backend = dataset.section("io_backend")["type"]
    if "io_backend" in dataset and backend not in BACKENDS:
        yield dataset.error(f"type: {backend!r}: expected {' or '.join(BACKENDS)}", "io_backend")
    for key in ("dataroot_gt", "dataroot_lq", "meta_info_file"):
        place, is_list = dataset[key], key == "meta_info_file"
        if place is not None and not osp.exists(place):
            yield dataset.error(f"{place} does not exist (looked for under {os.getcwd()})", key)
        elif place is not None and osp.isdir(place) == is_list:
            yield dataset.error(f"{place}: expected {'a list of images' if is_list else 'a folder'}", key)
    normalization, channels = (dataset["mean"], dataset["std"]), 1 if dataset["color"] == "y" else 3
    if normalization != (None, None) and any(len(values or ()) != channels for values in normalization):
        yield dataset.error(f"{dataset['mean']}: expected {channels} numbers, and as many in std", "mean")
    if dataset["persistent_workers"] and not (trains and dataset["num_worker_per_gpu"]):
        yield dataset.error("true: there are no workers; write false", "persistent_workers")
    if trains and dataset["prefetch_mode"] == "cuda" and not (run.opt["num_gpu"] and dataset["pin_memory"]):
        yield dataset.error("cuda needs a GPU and pin_memory: true; write cpu, or ~", "prefetch_mode")


def _image_problems(run, dataset, cls):
    """Find the images of a dataset, also for ``run.images``, and their errors."""
    if "scale" not in dataset and dataset["type"] == "PairedImageDataset":
        raise InputError(f"scale: missing; {dataset.where()} needs it to compare LQ and GT")
    found = find_images(dataset, cls)
    if not found.lq:
        source = next(key for key in ("meta_info_file", "dataroot_gt", "dataroot_lq") if dataset[key])
        raise InputError(f"{dataset.where(source)}: no image in {dataset[source]}")
    run.images[dataset.path[-1]] = found
    every = run.context.every_pair
    if not found.problems and dataset.section("io_backend")["type"] != "lmdb":
        look_at(dataset, found, every)
    wrong = {f"{'LQ and GT' if found.gt else 'images'} do not fit": found.problems}
    if run.opt.section("val")["save_img"] and not (run.context.is_train and dataset["phase"] == "train"):
        stems = [osp.splitext(osp.basename(path))[0] for path in found.lq]
        counts = Counter(stems)
        alike = [path for path, stem in zip(found.lq, stems, strict=True) if counts[stem] > 1]
        # OpenCV ends the process without a message when it saves under such a name.
        bad = [path for path in found.lq if not is_utf8(os.getcwd() + osp.basename(path))]
        wrong["images of one name, whose results would be one file; rename them, or write val: save_img: false"] = alike
        wrong["file names, or a working directory, not in UTF-8; rename them, or write val: save_img: false"] = bad
    for text, lines in wrong.items():
        shown, more = lines[: MOST_SHOWN[every]], len(lines) - MOST_SHOWN[every]
        end = [f"... and {more} more"] if more > 0 else []
        if lines:
            yield dataset.error("\n  ".join([text, *map(printable, shown), *end]), "dataroot_lq")
    if found.converted:
        counts = (
            f"{len(paths)} with {CONVERTED[change]} (such as {printable(paths[0])})"
            for change, paths in sorted(found.converted.items())
        )
        text = f"BasicSR reads images as RGB of 8 bits; of the {found.looked_at} looked at there are "
        yield dataset.warning(text + ", ".join(counts), "dataroot_lq")


def find_images(dataset: Section, cls: Callable) -> Images:
    """Find the images of a dataset by BasicSR's class; InputError where the class refuses them."""
    try:
        paths = cls(dict(dataset)).paths
    except Exception as error:  # each class fails in its own way
        folders = ", ".join(filter(None, (dataset["dataroot_lq"], dataset["dataroot_gt"])))
        raise InputError(f"{dataset.where('dataroot_lq')}: {one_line(error)} ({folders})") from error
    if not paths or isinstance(paths[0], str):
        return Images(sorted(paths))
    pairs = sorted((pair["lq_path"], pair["gt_path"]) for pair in paths)
    return Images([lq for lq, _ in pairs], [gt for _, gt in pairs])


def look_at(dataset: dict, found: Images, every: bool) -> None:
    """Look at every image, or at the headers of some; fill in ``problems`` and the fields below it."""
    chosen = list(zip(found.lq, found.gt, strict=True) if found.gt else zip(found.lq, strict=True))
    if not every and len(chosen) > MOST_PAIRS_CHECKED:
        # Evenly spread ones, and one for each kind of file name.
        kinds = {tuple(osp.splitext(path)[1] for path in pair): pair for pair in reversed(chosen)}
        chosen = list(dict.fromkeys([*chosen[:: -(-len(chosen) // MOST_PAIRS_CHECKED)], *kinds.values()]))
    with ThreadPoolExecutor() as pool:
        looks = (pool.map if every else map)(partial(_look, dataset, every, set()), chosen)
        hidden = None if every and len(chosen) > 1 else True  # None: hidden where stderr is no terminal
        looks = list(tqdm(looks, dataset["phase"], len(chosen), unit="pair", leave=False, disable=hidden))
    for paths, (sizes, changes, problem) in zip(chosen, looks, strict=True):
        found.problems += [problem] if problem else []
        found.looked_at += len(sizes)
        for path, change in changes:
            found.converted.setdefault(change, []).append(path)
        if sizes and "scale" in dataset and dataset["phase"] != "train":
            # In validation BasicSR crops GT to LQ times the scale.
            found.results.append((paths[-1], *(dataset["scale"] * side for side in sizes[0])))


def _look(dataset, every, trusted, paths):
    """Look at a pair; return the sizes of its images, (path, change) of those that are changed, and a problem."""
    sizes, changes = [], []
    for path in paths:
        try:
            size, own = _size_and_changes(path, every, trusted)
        except (OSError, images.Unreadable) as error:
            return [], [], f"{path}: cannot be read as an image{' completely' if every else ''}: {error}"
        sizes.append(size)
        changes += [(path, change) for change in own]
    return sizes, changes, _misfit(dataset, paths, sizes, changes) if len(sizes) == 2 else None


def _size_and_changes(path, every, trusted):
    """Width and height as a run reads an image, and the kinds of its changes.

    A header says the size, but not that OpenCV decodes the image. One image of each kind is decoded for that, and the
    headers of others are trusted where it has the size that its header says.
    """
    kind, size, changes = None, None, []
    try:
        with Image.open(path, formats=images.FORMATS) as image:
            orientation = images.orientation(image)
            changes = [*images.converted(image), *(["EXIF"] if orientation != 1 else [])]
            kind = image.format, image.mode, image.info.get("compression"), orientation
            # Pillow has turned the size of TIFF files already.
            size = image.size[::-1] if orientation >= 5 and image.format != "TIFF" else image.size
    except Exception:  # Pillow's plugins raise many kinds; OpenCV may read it nevertheless
        pass
    if every or kind not in trusted:
        content = images.content(Path(path))
        decoded = images.read(content).shape[1::-1]
        if every and (damage := images.damage(content)):
            raise images.Unreadable(damage)
        if decoded == size:
            trusted.add(kind)
        size = decoded
    return size, changes


def _misfit(dataset, paths, sizes, changes):
    (lq_path, gt_path), (lq, gt), scale = paths, sizes, dataset["scale"]
    over = [large - small * scale for large, small in zip(gt, lq, strict=True)]
    is_train, gt_size, shown = dataset["phase"] == "train", dataset.get("gt_size", 0), "{}x{}".format
    if is_train and over == [0, 0] and min(gt) < gt_size:
        return f"{gt_path} is {shown(*gt)}, smaller than gt_size {gt_size}: leave it out or lower gt_size"
    # In validation BasicSR crops what a scale that does not divide the image leaves over.
    if all(0 <= side < (1 if is_train else scale) for side in over):
        return None
    needed, turned = shown(*(side * scale for side in lq)), any(change == "EXIF" for _, change in changes)
    text = f"{lq_path} is {shown(*lq)}, so at scale {scale} {gt_path} must be {needed}, not {shown(*gt)}"
    return text + ("; OpenCV turns images by their EXIF orientation" if turned else "")
