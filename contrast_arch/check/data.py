"""The datasets of an option file: folders, lists, and the images in them."""

import importlib.util
import os
import os.path as osp
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy

from contrast_arch.check.context import Run
from contrast_arch.check.pairs import find_pairs, size_problems
from contrast_arch.check.parts import NEEDED, OF_PAIRS, error_of, registered
from contrast_arch.errors import InputError
from contrast_arch.images import is_utf8, printable
from contrast_arch.options.problems import Problem
from contrast_arch.options.validation import DATASETS, KNOWN_MODELS

# Module that each of BasicSR's io_backend needs.
BACKENDS = {"disk": None, "lmdb": "lmdb", "memcached": "mc"}
MOST_SHOWN = {False: 5, True: 1000}
CONVERTED = {
    "alpha": "alpha, which is dropped",
    "palette": "a palette, whose colors are read",
    "16 bits": "16 bits a channel, of which 8 are read",
    "EXIF": "an EXIF orientation, by which OpenCV turns them whether or not LQ was made so",
}


def dataset_problems(run: Run) -> Iterator[Problem]:
    """Find errors of each dataset, and of its images."""
    is_train, model = run.context.is_train, run.opt["model_type"]
    for dataset in run.opt.section("datasets"):
        start, kind = dataset["phase"], dataset["type"]
        if is_train and dataset.path[-1] != "train" and start != "val":
            yield dataset.error("BasicSR trains with 'train', 'val' and 'val_...'; rename it")
        elif start not in ("train", "val", "test"):
            yield dataset.error("BasicSR tests on 'test', 'test_...', 'val' and 'val_...'; rename it")
        if kind is None:
            continue
        try:
            cls = registered(dataset.where("type"), kind, "DATASET_REGISTRY")
        except InputError as failure:
            yield Problem(str(failure), (*dataset.path, "type"))
            continue
        name, unusable = cls.__name__, None
        # Nothing is known of models of others.
        if model in KNOWN_MODELS and cls.__module__.startswith("basicsr."):
            if name not in DATASETS:
                unusable = dataset.error(f"{model} cannot use {name}; expected {', '.join(DATASETS)}", "type")
            elif name == "SingleImageDataset" and is_train and start == "train":
                unusable = dataset.error(f"training needs GT images, and {name} has none", "type")
            elif name not in NEEDED and (fault := error_of(cls, deepcopy(dataset.values))):
                unusable = dataset.error(f"{name}: {fault}")
        yield from [unusable] if unusable else []
        # The datasets of some projects take several folders.
        if unusable or any(isinstance(dataset[key], list) for key in OF_PAIRS):
            continue
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
    if "io_backend" in dataset and (not isinstance(backend, str) or backend not in BACKENDS):
        yield dataset.error(f"type: {backend!r}: expected {' or '.join(BACKENDS)}", "io_backend")
    elif backend and BACKENDS[backend] and importlib.util.find_spec(BACKENDS[backend]) is None:
        yield dataset.error(f"{backend} needs {BACKENDS[backend]}, which is not installed", "io_backend")
    for key in ("dataroot_gt", "dataroot_lq", "meta_info_file"):
        place, is_list = dataset[key], key == "meta_info_file"
        if place is None:
            continue
        if not osp.exists(place):
            hint = "; contrast-arch prepare makes it from folders of HR images" if is_list else ""
            yield dataset.error(f"{place} does not exist (looked for under {osp.abspath(osp.curdir)}){hint}", key)
        elif osp.isdir(place) == is_list:
            yield dataset.error(f"{place}: expected {'a list of images' if is_list else 'a folder'}", key)
    normalization, channels = (dataset["mean"], dataset["std"]), 1 if dataset["color"] == "y" else 3
    if normalization != (None, None) and any(len(values or ()) != channels for values in normalization):
        text = f"{dataset['mean']} and std: {dataset['std']}: expected numbers for {channels} channels in both"
        yield dataset.error(text, "mean")
    if dataset["persistent_workers"] and not (trains and dataset["num_worker_per_gpu"]):
        why = "num_worker_per_gpu: 0" if trains else "BasicSR reads such a dataset without workers"
        yield dataset.error(f"true: {why}; write false", "persistent_workers")
    if trains and dataset["prefetch_mode"] == "cuda" and not (run.opt["num_gpu"] and dataset["pin_memory"]):
        yield dataset.error("cuda needs a GPU and pin_memory: true; write cpu, or ~", "prefetch_mode")


def _image_problems(run, dataset, cls):
    """Find the images of a dataset, also for ``run.pairs``, and their errors."""
    if "scale" not in dataset:
        if dataset["type"] == "PairedImageDataset":
            yield run.opt.error(f"missing; {dataset.where()} needs it to compare LQ and GT", "scale")
        return
    try:
        pairs = find_pairs(dataset.values, cls)
    except InputError as failure:
        yield dataset.error(str(failure))
        return
    if not pairs.lq:
        source = next(key for key in ("meta_info_file", "dataroot_gt", "dataroot_lq") if dataset[key])
        yield dataset.error(f"no image in {dataset[source]}", source)
        return
    run.pairs[dataset.path[-1]] = pairs
    every = run.context.every_pair

    def error(text, lines):
        shown = MOST_SHOWN[every]
        more = [f"... and {len(lines) - shown} more"] if len(lines) > shown else []
        return dataset.error("\n  ".join([text, *lines[:shown], *more]), "dataroot_lq")

    if run.opt.section("val")["save_img"] and not (run.context.is_train and dataset["phase"] == "train"):
        # OpenCV ends the process without a message when it saves under such a name.
        unsaved = [printable(path) for path in pairs.lq if not is_utf8(os.getcwd() + osp.basename(path))]
        if unsaved:
            text = "file names, or a working directory, that are not UTF-8, under which val: save_img cannot save"
            yield error(f"{text} results; rename them, or write save_img: false", unsaved)
        stems = [osp.splitext(osp.basename(path))[0] for path in pairs.lq]
        counts = Counter(stems)
        alike = [printable(path) for path, stem in zip(pairs.lq, stems, strict=True) if counts[stem] > 1]
        if alike:
            text = "images of one name (without folder and suffix), whose results val: save_img would write over each "
            yield error(f"{text}other; rename them, or write save_img: false", alike)
    wrong = pairs.problems
    if not wrong and dataset.section("io_backend")["type"] != "lmdb":
        wrong = size_problems(dataset.values, pairs, every)
    if wrong:
        yield error(f"{'LQ and GT' if pairs.gt else 'images'} do not fit", wrong)
    if pairs.converted:
        counts = (
            f"{len(paths)} with {CONVERTED[change]} (such as {printable(paths[0])})"
            for change, paths in sorted(pairs.converted.items())
        )
        text = f"BasicSR reads images as RGB of 8 bits; of the {pairs.looked_at} looked at there are "
        yield dataset.warning(text + ", ".join(counts), "dataroot_lq")
