"""The datasets of an option file: folders, lists, and the images in them."""

import importlib.util
import os
import os.path as osp
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy

from contrast_arch.check.pairs import Pairs, find_pairs, size_problems
from contrast_arch.check.registry import error_of, registered
from contrast_arch.check.section import Section
from contrast_arch.errors import InputError
from contrast_arch.images import is_utf8, printable
from contrast_arch.options.problems import Problem, error
from contrast_arch.options.validation import KNOWN_MODELS

# Module that each of BasicSR's io_backend needs.
BACKENDS = {"disk": None, "lmdb": "lmdb", "memcached": "mc"}
OF_PAIRS = ("dataroot_gt", "dataroot_lq", "io_backend")
NEEDED = {"PairedImageDataset": OF_PAIRS, "SingleImageDataset": ("dataroot_lq", "io_backend")}
# Of BasicSR's datasets, those whose items its SRModel can use; others give sequences, or GT alone.
USABLE = (*NEEDED, "RealESRGANPairedDataset")
MOST_SHOWN = {False: 5, True: 1000}
CONVERTED = {
    "alpha": "alpha, which is dropped",
    "palette": "a palette, whose colors are read",
    "16 bits": "16 bits a channel, of which 8 are read",
}


def dataset_problems(
    opt: Section, phase: str, complete: bool, every_pair: bool, found: dict[str, Pairs]
) -> Iterator[Problem]:
    """Find what is wrong with a dataset by itself.

    Args:
        opt: see :func:`~contrast_arch.check.context.completed`.
        phase: its key under ``datasets``.
        complete: False if keys of it had to be left out; then its images are not looked for.
        every_pair: read all images completely.
        found: receives its images.
    """
    dataset = opt.section("datasets", phase)
    yield from _phase_problems(opt["is_train"], dataset, phase)
    kind = dataset["type"]
    if kind is None:
        return
    try:
        cls = registered(dataset.where("type"), kind, "DATASET_REGISTRY")
    except InputError as failure:
        yield error((*dataset.path, "type"), str(failure))
        return
    unusable = list(_model_problems(opt, dataset, cls))
    yield from unusable
    # The datasets of some projects take several folders.
    if unusable or any(isinstance(dataset[key], list) for key in OF_PAIRS):
        return
    problems = [dataset.error(f"missing; {kind} needs it", key) for key in NEEDED.get(kind, ()) if key not in dataset]
    problems += [
        *_backend_problems(dataset),
        *_path_problems(dataset),
        *_color_problems(dataset),
        *_loader_problems(opt, dataset),
    ]
    yield from problems
    if not complete or kind not in NEEDED or any(problem.fatal for problem in problems):
        return
    if "scale" not in dataset:
        if kind == "PairedImageDataset":
            yield error(("scale",), f"scale: missing; {dataset.where()} needs it to compare LQ and GT")
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
    found[phase] = pairs
    yield from _image_problems(opt, dataset, pairs, every_pair)


def _image_problems(opt, dataset, pairs, every_pair):
    def listed(lines):
        shown = MOST_SHOWN[every_pair]
        more = [f"... and {len(lines) - shown} more"] if len(lines) > shown else []
        return "\n  ".join(["", *lines[:shown], *more])

    if opt.section("val")["save_img"] and not (opt["is_train"] and dataset["phase"] == "train"):
        mend = "or write save_img: false"
        # OpenCV ends the process without a message when it saves under such a name.
        unsaved = [printable(path) for path in pairs.lq if not is_utf8(osp.basename(path))]
        if unsaved:
            text = "file names that are not UTF-8, under which val: save_img cannot save results; rename them ('convmv "
            text += f"-r -f latin1 -t utf8 --notest FOLDER' does it for Latin-1), {mend}{listed(unsaved)}"
            yield dataset.error(text, "dataroot_lq")
        stems = [osp.splitext(osp.basename(path))[0] for path in pairs.lq]
        counts = Counter(stems)
        alike = [printable(path) for path, stem in zip(pairs.lq, stems, strict=True) if counts[stem] > 1]
        if alike:
            text = "images of one name (without folder and suffix), whose results val: save_img would write over each "
            yield dataset.error(f"{text}other; rename them, {mend}{listed(alike)}", "dataroot_lq")
    wrong = pairs.problems or size_problems(dataset.values, pairs, every_pair)
    if wrong:
        yield dataset.error(f"{'LQ and GT' if pairs.gt else 'images'} do not fit{listed(wrong)}", "dataroot_lq")
    if pairs.converted:
        counts = (
            f"{len(paths)} with {CONVERTED[change]} (such as {printable(paths[0])})"
            for change, paths in sorted(pairs.converted.items())
        )
        text = f"BasicSR reads images as RGB of 8 bits; of the {pairs.looked_at} looked at there are "
        yield dataset.warning(text + ", ".join(counts), "dataroot_lq")


def folder_problems(opt: Section) -> Iterator[Problem]:
    """Find libraries that cannot write into the working directory because of its name."""
    folder = os.getcwd()
    if is_utf8(folder):
        return
    for section, key, library in (("val", "save_img", "OpenCV"), ("logger", "use_tb_logger", "TensorBoard")):
        if opt.section(section)[key] and (opt["is_train"] or section == "val"):
            text = f"true: {library} cannot write under {printable(folder)}, whose name is not UTF-8"
            yield opt.section(section).error(f"{text}; rename that folder, or write false", key)


def _phase_problems(is_train, dataset, phase):
    start = dataset["phase"]
    if is_train and phase != "train" and start != "val":
        yield dataset.error("BasicSR trains with 'train', 'val' and 'val_...'; rename it")
    elif start not in ("train", "val", "test"):
        yield dataset.error("BasicSR tests on 'test', 'test_...', 'val' and 'val_...'; rename it")
    elif not is_train and start == "train":
        yield dataset.warning("is tested on too, in random patches; 'test_...' takes whole images")


def _model_problems(opt: Section, dataset: Section, cls: Callable):
    """Find datasets whose items the model cannot use; nothing is known of models of others."""
    model, name = opt["model_type"], cls.__name__
    if model not in KNOWN_MODELS or not cls.__module__.startswith("basicsr."):
        return
    if name not in USABLE:
        yield dataset.error(f"{model} cannot use {name}; expected {', '.join(USABLE)}", "type")
    elif name == "SingleImageDataset" and opt["is_train"] and dataset["phase"] == "train":
        yield dataset.error(f"training needs GT images, and {name} has none", "type")
    elif name not in NEEDED:
        fault = error_of(cls, deepcopy(dataset.values))
        if fault:
            yield dataset.error(f"{name}: {fault}")


def _backend_problems(dataset):
    backend = dataset.section("io_backend")
    if "io_backend" not in dataset:
        return
    kind = backend["type"]
    if not isinstance(kind, str) or kind not in BACKENDS:
        yield dataset.error(f"type: {kind!r}: expected {' or '.join(BACKENDS)}", "io_backend")
        return
    others = [str(key) for key in backend.values if key != "type"]
    if kind == "disk" and others:
        yield backend.error(f"disk has no {', '.join(others)}", others[0])
    if BACKENDS[kind] is not None and importlib.util.find_spec(BACKENDS[kind]) is None:
        yield dataset.error(f"{kind} needs {BACKENDS[kind]}, which is not installed", "io_backend")


def _path_problems(dataset):
    for key in ("dataroot_gt", "dataroot_lq", "meta_info_file"):
        place, is_list = dataset[key], key == "meta_info_file"
        if place is None:
            if is_list and key in dataset and dataset["type"] == "SingleImageDataset":
                yield dataset.error("~: leave it out; SingleImageDataset would open it", key)
        elif not osp.exists(place):
            hint = "; contrast-arch prepare makes it from folders of HR images" if is_list else ""
            yield dataset.error(f"{place} does not exist (looked for under {osp.abspath(osp.curdir)}){hint}", key)
        elif osp.isdir(place) == is_list:
            yield dataset.error(f"{place}: expected {'a list of images' if is_list else 'a folder'}", key)


def _color_problems(dataset):
    for key, other in (("mean", "std"), ("std", "mean")):
        values = dataset[key]
        if values is None and dataset[other] is not None:
            yield dataset.error(f"mean and std belong together; {key} is missing")
        elif values is not None and len(values) != (1 if dataset["color"] == "y" else 3):
            yield dataset.error(f"{values}: expected one number for each channel", key)
        elif key == "std" and values is not None and 0 in values:
            yield dataset.error(f"{values}: expected numbers other than 0", key)
    if dataset["color"] == "y" and dataset["type"] == "SingleImageDataset":
        text = "y: BasicSR's SingleImageDataset exchanges red and blue when it computes Y, which PairedImageDataset "
        yield dataset.warning(f"{text}does not do; make the images grey before", "color")


def _loader_problems(opt, dataset):
    trains, workers = dataset["phase"] == "train", dataset["num_worker_per_gpu"]
    if dataset["persistent_workers"] and not (trains and workers):
        why = "num_worker_per_gpu: 0" if trains else "BasicSR reads such a dataset without workers"
        yield dataset.error(f"true: {why}; write false", "persistent_workers")
    if opt["is_train"] and trains and dataset["prefetch_mode"] == "cuda":
        if opt["num_gpu"] == 0:
            yield dataset.error("cuda needs a GPU; write cpu, or ~", "prefetch_mode")
        if dataset["pin_memory"] is not True:
            yield dataset.error("cuda needs pin_memory: true", "prefetch_mode")
