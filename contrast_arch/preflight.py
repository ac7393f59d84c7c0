"""What is wrong with an option file, found before any long work starts and before anything on disk is touched."""

import argparse
import difflib
import os
import os.path as osp
from copy import deepcopy

import torch
import yaml
from PIL import Image

from contrast_arch import ops
from contrast_arch.archs.network import PUBLISHED_INDEX_BUFFERS, SRNetwork
from contrast_arch.compat import resume_state_path
from contrast_arch.errors import InputError

# Opening a header takes about 0.1 ms; of larger datasets this many pairs are looked at, evenly spread.
MOST_PAIRS_CHECKED = 5000

# Keys that BasicSR reads without asking whether they are there, some of them hours into a run.
REQUIRED = ("name", "model_type", "num_gpu", "datasets", "network_g", "path")
REQUIRED_FOR_TRAINING = (*REQUIRED, "scale", "train", "logger")
REQUIRED_FOR_TESTING = (*REQUIRED, "val")
REQUIRED_INSIDE = {
    "train": ("total_iter", "optim_g", "scheduler"),
    "logger": ("print_freq", "save_checkpoint_freq", "use_tb_logger"),
    "val": ("val_freq", "save_img"),
}
REQUIRED_OF_TRAINING_DATA = ("gt_size", "use_hflip", "use_rot", "batch_size_per_gpu", "num_worker_per_gpu")


def read_options(path: str) -> dict:
    """An option file as BasicSR reads it.

    Raises:
        InputError: no such file, not YAML, not a mapping, or a key that stands twice (BasicSR would silently take the
            last).
    """
    from basicsr.utils.options import ordered_yaml

    try:
        with open(path) as file:
            text = file.read()
        _refuse_duplicate_keys(yaml.compose(text), path)
        options = yaml.load(text, Loader=ordered_yaml()[0])
    except OSError as error:
        raise InputError(f"-opt {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable as YAML: {error}") from error
    if not isinstance(options, dict):
        raise InputError(f"{path} holds no options: expected 'key: value' lines")
    return options


def _refuse_duplicate_keys(node, path):
    if isinstance(node, yaml.MappingNode):
        seen = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise InputError(
                    f"{path}, line {line}: {key.value!r} stands already in line {seen[key.value]}; keep one"
                )
            seen[key.value] = line
            _refuse_duplicate_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicate_keys(value, path)


def check_option_file(argv: list[str], is_train: bool) -> None:
    """Check that the file named by ``-opt`` can be read, has the keys that BasicSR reads without asking, and those that
    --force_yml wants to change.

    Args:
        argv: the command line without the program; what else is in it is for BasicSR's own parser.
        is_train: whether it is for training or for testing.

    Raises:
        InputError: see above.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-opt")
    parser.add_argument("--force_yml", nargs="+", default=[])
    parser.add_argument("--launcher", default="none")
    args, _ = parser.parse_known_args(argv)
    if args.launcher != "none" and not torch.cuda.is_available():
        raise InputError(f"--launcher {args.launcher}: BasicSR runs several processes on GPUs only; PyTorch sees none")
    path = args.opt
    if path is None:
        return
    options = read_options(path)
    _require(path, options, REQUIRED_FOR_TRAINING if is_train else REQUIRED_FOR_TESTING)
    sections = {key: options[key] for key in ("datasets", "network_g", "path", "train", "logger") if key in options}
    if isinstance(sections["datasets"], dict):
        sections.update({f"datasets: {phase}": dataset for phase, dataset in sections["datasets"].items()})
    for key, section in sections.items():
        if not isinstance(section, dict):
            raise InputError(f"{path}: {key}: {section!r}: expected keys of its own, indented below it")
    for entry in args.force_yml:
        _check_force_yml(entry, options)


def _check_force_yml(entry, options):
    if entry.count("=") != 1:
        raise InputError(f"--force_yml {entry}: expected key:key=value, such as train:total_iter=1000")
    at = options
    *parents, _ = (key.strip() for key in entry.split("=")[0].split(":"))
    for key in parents:
        if not isinstance(at, dict) or not isinstance(at.get(key), dict):
            raise InputError(f"--force_yml {entry}: the option file has no section {key!r} there")
        at = at[key]


def forced(options: dict, entries) -> dict:
    """Options with the changes of ``--force_yml``, read as BasicSR reads them.

    Raises:
        InputError: an entry that is not ``key:key=value``, or a key that is not there.
    """
    from basicsr.utils.options import _postprocess_yml_value

    options = deepcopy(options)
    for entry in entries:
        _check_force_yml(entry, options)
        keys, value = entry.split("=")
        *parents, last = (key.strip() for key in keys.split(":"))
        section = options
        for key in parents:
            section = section[key]
        section[last] = _postprocess_yml_value(value.strip())
    return options


def check_options(opt: dict) -> None:
    """Check the options BasicSR is about to use, --force_yml included.

    Raises:
        InputError: the first thing that is wrong.
    """
    if opt["num_gpu"] != 0 and not torch.cuda.is_available():
        raise InputError(f"num_gpu: {opt['num_gpu']}, but PyTorch sees no GPU; write num_gpu: 0, or auto")
    _check_registered("model_type", opt["model_type"], "MODEL_REGISTRY")
    network = check_network(opt["network_g"])
    if network is not None and network.upscale != opt.get("scale", network.upscale):
        raise InputError(
            f"network_g: upscale: {network.upscale} differs from scale: {opt['scale']}; give both the same number"
        )
    check_backend(torch.device("cuda" if opt["num_gpu"] else "cpu"))
    if opt["is_train"]:
        _check_training(opt)
    for name, metric in ((opt.get("val") or {}).get("metrics") or {}).items():
        _check_registered(f"val: metrics: {name}: type", metric.get("type"), "METRIC_REGISTRY")
    for phase, dataset in opt["datasets"].items():
        check_dataset(f"datasets: {phase}", dataset)
    resume = _check_resume_state(opt) if opt["is_train"] else None
    checkpoint = resume or opt["path"].get("pretrain_network_g")
    if checkpoint is not None:
        paths = opt["path"]
        check_checkpoint(checkpoint, network, paths.get("param_key_g", "params"), paths.get("strict_load_g", True))


def _check_registered(key, name, registry):
    import basicsr.utils.registry

    registry = getattr(basicsr.utils.registry, registry)
    known = list(registry.keys())
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"registered are {', '.join(sorted(known))}"
        raise InputError(f"{key}: {name!r} is not registered; {hint}")
    return registry.get(name)


def check_network(network_g: dict) -> torch.nn.Module | None:
    """Build the network without memory.

    Returns:
        The network on the meta device; None for networks of others, whose constructors may do what they like.

    Raises:
        InputError: unknown type, unknown argument, or a value that is refused.
    """
    arguments = dict(network_g)
    cls = _check_registered("network_g: type", arguments.pop("type", None), "ARCH_REGISTRY")
    if not (isinstance(cls, type) and issubclass(cls, SRNetwork)):
        return None
    try:
        with torch.device("meta"):
            return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"network_g: {error}") from error


def check_backend(device: torch.device) -> None:
    """Check the backend that the environment forces, if it does.

    Args:
        device: without an index, that of PyTorch's current GPU.

    Raises:
        InputError: it is unknown, or cannot serve the device.
    """
    forced = os.environ.get(ops.ENVIRONMENT)
    if not forced:
        return
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    try:
        ops.check_backend(forced, device)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error


def _check_training(opt):
    for section, keys in REQUIRED_INSIDE.items():
        if opt.get(section) is not None:
            _require(section, opt[section], keys)
    if "train" not in opt["datasets"]:
        raise InputError("datasets has no entry 'train'")
    _require("datasets: train", opt["datasets"]["train"], REQUIRED_OF_TRAINING_DATA)
    gt_size = opt["datasets"]["train"]["gt_size"]
    if gt_size % opt["scale"]:
        raise InputError(f"datasets: train: gt_size: {gt_size} is not a multiple of scale: {opt['scale']}")
    losses = {key: opt["train"].get(key) for key in ("pixel_opt", "perceptual_opt")}
    if not any(losses.values()):
        raise InputError("train has neither pixel_opt nor perceptual_opt: no loss to train with")
    for key, loss in losses.items():
        if loss:
            _check_registered(f"train: {key}: type", loss.get("type"), "LOSS_REGISTRY")
    optimizer = opt["train"]["optim_g"]
    if not isinstance(optimizer, dict) or "type" not in optimizer or "lr" not in optimizer:
        raise InputError("train: optim_g needs a type and an lr, such as {type: Adam, lr: !!float 2e-4}")
    if isinstance(optimizer["lr"], str):
        lr = optimizer["lr"]
        raise InputError(f"train: optim_g: lr: {lr} is read as text; write 'lr: !!float {lr}'")


def _require(where, section, keys):
    missing = [key for key in keys if key not in section]
    if missing:
        raise InputError(
            f"{where} has no {', '.join(missing)}; the option files of this package show what belongs there"
        )


def check_dataset(where: str, dataset: dict) -> None:
    """Check that the folders of a dataset exist and that its LQ and GT images pair and fit the scale.

    Raises:
        InputError: names the folder or the image.
    """
    cls = _check_registered(f"{where}: type", dataset.get("type"), "DATASET_REGISTRY")
    for key in ("dataroot_gt", "dataroot_lq", "meta_info_file"):
        path = dataset.get(key)
        if path is not None and not osp.exists(path):
            hint = "; contrast-arch prepare makes it from folders of HR images" if key == "meta_info_file" else ""
            raise InputError(
                f"{where}: {key}: {path} does not exist (looked for under {osp.abspath(osp.curdir)}){hint}"
            )
    if cls.__name__ != "PairedImageDataset":
        return
    if "scale" not in dataset:
        raise InputError(f"{where}: the option file has no scale, which says how LQ and GT fit")
    try:
        paths = cls(deepcopy(dataset)).paths
    except KeyError as error:
        raise InputError(f"{where}: PairedImageDataset needs the key {error}") from error
    except (AssertionError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{where}: {error} ({dataset.get('dataroot_lq')} and {dataset.get('dataroot_gt')})") from error
    if not paths:
        raise InputError(f"{where}: no image in {dataset['dataroot_gt']}")
    if dataset["io_backend"]["type"] == "lmdb":
        return
    wrong = []
    for pair in paths[:: -(-len(paths) // MOST_PAIRS_CHECKED)]:
        wrong += _pair_problem(dataset, pair["lq_path"], pair["gt_path"])
    if wrong:
        more = f"\n  ... and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InputError(f"{where}: LQ and GT do not fit\n  " + "\n  ".join(wrong[:5]) + more)


def _pair_problem(dataset, lq_path, gt_path):
    sizes = []
    for path in (lq_path, gt_path):
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except OSError as error:
            return [f"{path}: cannot be read as an image: {error}"]
    (lq_w, lq_h), (gt_w, gt_h) = sizes
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


def _load(path, what):
    if not osp.exists(path):
        raise InputError(f"{what} {path} does not exist")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file, and documents none
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{what} {path} cannot be read; it may be truncated, or no PyTorch file: {reason}") from error


def _check_resume_state(opt):
    """The network checkpoint of the state that will be resumed, None where training starts anew."""
    path = resume_state_path(opt)
    if path is None:
        return None
    state = _load(path, "training state")
    if not isinstance(state, dict) or "iter" not in state or "optimizers" not in state:
        raise InputError(f"training state {path} is none: expected a file NUMBER.state that BasicSR saved")
    return osp.join(opt["path"]["models"], f"net_g_{state['iter']}.pth")


def check_checkpoint(path: str, network: torch.nn.Module | None, param_key: str | None, strict: bool = True) -> None:
    """Check that a checkpoint loads and, given a network, that it holds the weights of that network.

    Without ``strict``, as for fine-tuning at another scale, it is enough that some of the weights fit.

    Raises:
        InputError: names the file and what in it does not fit.
    """
    weights = _load(path, "checkpoint")
    if param_key is not None and isinstance(weights, dict):
        if param_key not in weights and "params" in weights:
            param_key = "params"  # as BasicSR does for checkpoints without EMA weights
        if param_key not in weights:
            keys = ", ".join(map(str, list(weights)[:5]))
            raise InputError(f"checkpoint {path} has no {param_key!r} (path: param_key_g) but {keys}")
        weights = weights[param_key]
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(f"checkpoint {path} holds no weights under path: param_key_g: {param_key or '~'}; try params")
    if network is None:
        return
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key.removeprefix("module."): tuple(value.shape) for key, value in weights.items()}
    found = {key: shape for key, shape in found.items() if key not in PUBLISHED_INDEX_BUFFERS}
    if expected == found:
        return
    name = type(network).__name__
    if not strict:
        if not set(expected.items()) & set(found.items()):
            raise InputError(f"checkpoint {path} has none of the weights of this network_g ({name})")
        return
    problems = [f"{key} is missing" for key in expected if key not in found]
    problems += [f"{key} is not of this network" for key in found if key not in expected]
    problems += [
        f"{key} is {found[key]}, expected {shape}" for key, shape in expected.items() if found.get(key, shape) != shape
    ]
    more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
    raise InputError(f"checkpoint {path} was not saved from this network_g ({name}): {'; '.join(problems[:3])}{more}")
