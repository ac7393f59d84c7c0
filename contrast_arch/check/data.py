"""The datasets of an option file: folders, lists, and the images in them."""

import importlib.util
import os
import os.path as osp
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy

from contrast_arch.check.keys import KNOWN_MODELS
from contrast_arch.check.pairs import Pairs, find_pairs, size_problems
from contrast_arch.check.problems import Problem, error, warning
from contrast_arch.check.registered import registered, tried
from contrast_arch.errors import InputError
from contrast_arch.images import is_utf8, printable

BACKENDS = {"disk": None, "lmdb": "lmdb", "memcached": "mc"}
OF_PAIRS = ("dataroot_gt", "dataroot_lq", "io_backend")
NEEDED = {"PairedImageDataset": OF_PAIRS, "SingleImageDataset": ("dataroot_lq", "io_backend")}
# Of BasicSR's datasets, those whose items its SRModel can use; others give sequences, or GT alone.
USABLE = (*NEEDED, "RealESRGANPairedDataset")
MOST_SHOWN = {False: 5, True: 1000}
# What BasicSR changes of an image that it reads, in words.
CONVERTED = {
    "alpha": "alpha, which is dropped",
    "palette": "a palette, whose colors are read",
    "16 bits": "16 bits a channel, of which 8 are read",
}


def dataset_problems(
    opt: dict, phase: str, complete: bool, every_pair: bool, found: dict[str, Pairs]
) -> Iterator[Problem]:
    """What is wrong with a dataset by itself.

    Args:
        opt: see :func:`~contrast_arch.check.situation.completed`.
        phase: its key under ``datasets``.
        complete: whether no key of it had to be left out; otherwise its images are not looked for.
        every_pair: whether all images are read, completely.
        found: is given its images.
    """
    dataset, path = opt["datasets"][phase], ("datasets", phase)
    where = ": ".join(path)
    yield from _of_phase(opt, phase, path)
    kind = dataset.get("type")
    if kind is None:
        return
    try:
        cls = registered(f"{where}: type", kind, "DATASET_REGISTRY")
    except InputError as failure:
        yield error((*path, "type"), str(failure))
        return
    unusable = list(_of_model(opt, phase, cls))
    yield from unusable
    if unusable:
        return
    if any(isinstance(dataset.get(key), list) for key in OF_PAIRS):
        return  # of a project whose datasets take several folders
    missing = [key for key in NEEDED.get(kind, ()) if key not in dataset]
    yield from (error((*path, key), f"{where}: {kind} needs {key}") for key in missing)
    problems = [*_of_backend(dataset, path), *_of_paths(dataset, path), *_of_loader(opt, phase, path)]
    yield from problems
    if dataset.get("color") == "y" and kind == "SingleImageDataset":
        yield warning(
            (*path, "color"),
            f"{where}: color: y: BasicSR's SingleImageDataset exchanges red and blue when it computes Y, which "
            "PairedImageDataset does not do; make the images grey before",
        )
    if missing or not complete or kind not in NEEDED or any(problem.fatal for problem in problems):
        return
    if "scale" not in dataset:
        if kind == "PairedImageDataset":
            yield error(("scale",), f"{where}: the option file has no scale, which says how LQ and GT fit")
        return
    try:
        pairs = find_pairs(dataset)
    except InputError as failure:
        yield error(path, f"{where}: {failure}")
        return
    if not pairs:
        source = next(key for key in ("meta_info_file", "dataroot_gt", "dataroot_lq") if dataset.get(key))
        yield error((*path, source), f"{where}: no image in {dataset[source]}")
        return
    found[phase] = pairs
    yield from _of_names(opt, phase, pairs, MOST_SHOWN[every_pair])
    wrong = pairs.problems or size_problems(dataset, pairs, every_pair)
    if wrong:
        what = "images do not fit" if not pairs.gt else "LQ and GT do not fit"
        yield error((*path, "dataroot_lq"), f"{where}: {what}{_listed(wrong, MOST_SHOWN[every_pair])}")
    if pairs.converted:
        counts = [
            f"{len(images)} with {CONVERTED[what]} (such as {printable(images[0])})"
            for what, images in sorted(pairs.converted.items())
        ]
        text = f"{where}: BasicSR reads images as RGB of 8 bits; of the {pairs.looked_at} looked at there are "
        yield warning((*path, "dataroot_lq"), text + ", ".join(counts))


def _listed(lines, shown):
    """For messages: the first lines, and the number of the others."""
    more = [f"... and {len(lines) - shown} more"] if len(lines) > shown else []
    return "".join(f"\n  {line}" for line in [*lines[:shown], *more])


def _of_names(opt, phase, pairs, shown):
    """File names under which results cannot be saved: OpenCV ends the process without a message, or overwrites one."""
    if (opt["is_train"] and phase == "train") or not (opt.get("val") or {}).get("save_img"):
        return
    at, mend = ("datasets", phase, "dataroot_lq"), "or write save_img: false"
    wrong = [printable(path) for path in pairs.lq if not is_utf8(osp.basename(path))]
    if wrong:
        yield error(
            at,
            f"datasets: {phase}: file names that are not UTF-8, under which val: save_img cannot save results; rename "
            f"them ('convmv -r -f latin1 -t utf8 --notest FOLDER' does it for Latin-1), {mend}{_listed(wrong, shown)}",
        )
    stems = [osp.splitext(osp.basename(path))[0] for path in pairs.lq]
    counts = Counter(stems)
    alike = [printable(path) for path, stem in zip(pairs.lq, stems, strict=True) if counts[stem] > 1]
    if alike:
        yield error(
            at,
            f"datasets: {phase}: images of one name (without folder and suffix), whose results val: save_img "
            f"would write over each other; rename them, {mend}{_listed(alike, shown)}",
        )


def folder_problems(opt: dict) -> Iterator[Problem]:
    """The working directory, where it has a name that the libraries which write there cannot take."""
    folder = os.getcwd()
    if is_utf8(folder):
        return
    for section, key, library in (("val", "save_img", "OpenCV"), ("logger", "use_tb_logger", "TensorBoard")):
        if (opt.get(section) or {}).get(key) and (opt["is_train"] or section == "val"):
            text = f"{section}: {key}: true: {library} cannot write under {printable(folder)}, whose name is not UTF-8"
            yield error((section, key), f"{text}; rename that folder, or write false")


def _of_model(opt, phase, cls):
    """Whether the model can use the items of a dataset; those of others are not known."""
    model, name, path = opt.get("model_type"), cls.__name__, ("datasets", phase, "type")
    if model not in KNOWN_MODELS or not cls.__module__.startswith("basicsr."):
        return
    if name not in USABLE:
        yield error(path, f"{': '.join(path)}: {model} cannot use {name}; expected {', '.join(USABLE)}")
    elif name == "SingleImageDataset" and opt["is_train"] and phase == "train":
        yield error(path, f"{': '.join(path)}: training needs GT images, and {name} has none")
    elif name not in NEEDED:
        fault = tried(lambda: cls(deepcopy(opt["datasets"][phase])))
        if fault:
            yield error(path[:2], f"{': '.join(path[:2])}: {name}: {fault}")


def _of_phase(opt, phase, path):
    start = phase.split("_")[0]
    if opt["is_train"] and phase != "train" and start != "val":
        yield error(path, f"datasets: {phase}: BasicSR trains with 'train', 'val' and 'val_...'; rename it")
    elif start not in ("train", "val", "test"):
        yield error(path, f"datasets: {phase}: BasicSR tests on 'test', 'test_...', 'val' and 'val_...'; rename it")
    elif not opt["is_train"] and start == "train":
        yield warning(path, f"datasets: {phase}: is tested on too, in random patches; 'test_...' takes whole images")


def _of_backend(dataset, path):
    where, backend = ": ".join(path), dataset.get("io_backend")
    if backend is None:
        return
    kind = backend.get("type")
    if not isinstance(kind, str) or kind not in BACKENDS:
        yield error((*path, "io_backend"), f"{where}: io_backend: type: {kind!r}: expected {' or '.join(BACKENDS)}")
        return
    module, others = BACKENDS[kind], [str(key) for key in backend if key != "type"]
    if kind == "disk" and others:
        yield error((*path, "io_backend", others[0]), f"{where}: io_backend: disk has no {', '.join(others)}")
    if module is not None and importlib.util.find_spec(module) is None:
        yield error((*path, "io_backend"), f"{where}: io_backend: {kind} needs {module}, which is not installed")


def _of_paths(dataset, path):
    where = ": ".join(path)
    for key in ("dataroot_gt", "dataroot_lq", "meta_info_file"):
        place = dataset.get(key)
        if place is None:
            if key == "meta_info_file" and key in dataset and dataset["type"] == "SingleImageDataset":
                yield error((*path, key), f"{where}: meta_info_file: ~: leave it out; SingleImageDataset would open it")
        elif not osp.exists(place):
            hint = "; contrast-arch prepare makes it from folders of HR images" if key == "meta_info_file" else ""
            yield error(
                (*path, key),
                f"{where}: {key}: {place} does not exist (looked for under {osp.abspath(osp.curdir)}){hint}",
            )
        elif osp.isdir(place) == (key == "meta_info_file"):
            expected = "a list of images" if key == "meta_info_file" else "a folder"
            yield error((*path, key), f"{where}: {key}: {place}: expected {expected}")
    for key in ("mean", "std"):
        values, other = dataset.get(key), dataset.get("std" if key == "mean" else "mean")
        if values is None and other is not None:
            yield error(path, f"{where}: mean and std belong together; {key} is missing")
        elif values is not None and len(values) != (1 if dataset.get("color") == "y" else 3):
            yield error((*path, key), f"{where}: {key}: {values}: expected one number for each channel")
        elif key == "std" and values is not None and 0 in values:
            yield error((*path, key), f"{where}: std: {values}: expected numbers other than 0")


def _of_loader(opt, phase, path):
    where, dataset = ": ".join(path), opt["datasets"][phase]
    workers = dataset.get("num_worker_per_gpu", 0) if dataset["phase"] == "train" else 0
    if dataset.get("persistent_workers") and not workers:
        why = "num_worker_per_gpu: 0" if dataset["phase"] == "train" else "BasicSR reads such a dataset without workers"
        yield error((*path, "persistent_workers"), f"{where}: persistent_workers: true: {why}; write false")
    if opt["is_train"] and phase == "train" and dataset.get("prefetch_mode") == "cuda":
        if opt.get("num_gpu") == 0:
            yield error((*path, "prefetch_mode"), f"{where}: prefetch_mode: cuda needs a GPU; write cpu, or ~")
        if dataset.get("pin_memory") is not True:
            yield error((*path, "prefetch_mode"), f"{where}: prefetch_mode: cuda needs pin_memory: true")
