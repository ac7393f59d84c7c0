"""Network, optimizer, scheduler, losses and metrics: each is made from its section and tried on very little."""

import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import torch

from contrast_arch import ops
from contrast_arch.archs.network import SRNetwork
from contrast_arch.check.context import Run, Section, reported
from contrast_arch.errors import InputError, hint, located, one_line
from contrast_arch.models.optimizers import optimizer_class
from contrast_arch.options.document import Problem
from contrast_arch.options.schema import SR_MODEL
from contrast_arch.options.validation import KNOWN_MODELS
from contrast_arch.weights import network as weights_network

SCHEDULERS = {
    "MultiStepLR": "MultiStepRestartLR",
    "MultiStepRestartLR": "MultiStepRestartLR",
    "CosineAnnealingRestartLR": "CosineAnnealingRestartLR",
}
# PerceptualLoss would download the weights of VGG; NIQE reads its constants from a file and needs large images.
NOT_TRIED = ("PerceptualLoss", "calculate_niqe")
# Of BasicSR's datasets, those whose items its SRModel can use, with the keys that they need; others give sequences, or
# GT alone.
OF_PAIRS = ("dataroot_gt", "dataroot_lq", "io_backend")
NEEDED = {"PairedImageDataset": OF_PAIRS, "SingleImageDataset": ("dataroot_lq", "io_backend")}


def registered(key: str, name: str, registry: str) -> Callable:
    """Find the class or function of a name in a registry of BasicSR, such as "ARCH_REGISTRY".

    InputError where it is not registered; ``key`` is where the name stands, for the message.
    """
    for part in ("archs", "data", "losses", "metrics", "models"):  # their import fills the registries
        importlib.import_module(f"basicsr.{part}")
    registry = getattr(importlib.import_module("basicsr.utils.registry"), registry)
    known = list(registry.keys())
    # BasicSR looks for the second name after the first.
    found = next((each for each in (name, f"{name}_basicsr") if each in known), None)
    if found is None:
        near = hint(name, known, "registered are ")
        raise InputError(f"{key}: {name!r} is not registered; {near}; for those of a project write 'imports: [MODULE]'")
    return registry.get(found)


def trains_as_srmodel(model: type | None, *methods: str) -> bool:
    """True if a model has methods as BasicSR's SRModel has them."""
    from basicsr.models.sr_model import SRModel

    return all(getattr(model, method, None) is getattr(SRModel, method) for method in methods)


def import_problems(names: Iterable[str]) -> Iterator[Problem]:
    """Import the modules that register networks, models and datasets of a project; yield why one cannot be."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as failure:  # files of a project may raise anything
            absent = isinstance(failure, ModuleNotFoundError) and failure.name == name.split(".")[0]
            reason = f"it is neither under {os.getcwd()} nor installed" if absent else located(failure)
            yield Problem.at(("imports",), f"{name} cannot be imported: {reason}")


def error_of(call: Callable, *arguments) -> str | None:
    """Call, and return the message of the error in a line; None without one."""
    try:
        call(*arguments)
    except Exception as failure:  # they check their arguments in as many ways as they have authors
        return one_line(failure)
    return None


def _argument_problems(section: Section, call: Callable, provided: Iterable[str] = ()):
    """Find arguments that a call does not take, or needs and does not get; ``**kwargs`` alone takes any."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in provided]
    known, name = [p.name for p in named], getattr(call, "__name__", str(call))
    if not known and any(p.kind == p.VAR_KEYWORD for p in parameters):
        return
    wrong = {
        key: f"has no argument {key!r}; " + (hint(key, known, "its arguments: ") if known else "it takes none")
        for key in section
        if key not in (*known, "type")
    }
    wrong |= {p.name: f"needs {p.name}" for p in named if p.default is p.empty and p.name not in section}
    for key, text in wrong.items():
        yield Problem(f"{section.where()}: {name} {text}", (*section.path, key))


@reported
def _part_problems(section: Section, find: Callable, trial: Callable, example: str, provided=()) -> Iterator[Problem]:
    """Find a part by its type, compare its arguments with its signature, and use it in ``trial``."""
    name = section["type"]
    if not name:
        raise InputError(f"{section.where('type')}: missing; expected one such as {example}")
    call = find(name)
    wrong = list(_argument_problems(section, call, provided))
    yield from wrong
    if not wrong and (fault := error_of(trial, call, weights_network.arguments_of(section))):
        yield section.error(f"{name}: {fault}")


def build_on_meta(network_g: dict) -> torch.nn.Module | None:
    """Build the network on the meta device; None for those of others, whose constructors may do anything.

    InputError for an unknown type, an unknown argument, or a value that is refused.
    """
    cls = registered("network_g: type", network_g.get("type"), "ARCH_REGISTRY")
    if not (isinstance(cls, type) and issubclass(cls, SRNetwork)):
        return None
    return weights_network.build_on_meta(cls, weights_network.arguments_of(network_g))


def network_problems(run: Run) -> Iterator[Problem]:
    """Build ``network_g``; find errors of its arguments, and contradictions with the other options."""
    section, scale = run.opt.section("network_g"), run.opt["scale"]
    if not section["type"] or any(path[0] == "network_g" for path in run.unfit):
        return
    try:
        run.network = network = build_on_meta(section)
    except InputError as failure:
        # The key that the message names first.
        named = [(str(failure).find(key), key) for key in section if key != "type" and key in str(failure)]
        yield Problem(str(failure), ("network_g", min(named)[1] if named else "type"))
        return
    if network is None:
        yield from _argument_problems(section, registered("", section["type"], "ARCH_REGISTRY"))
        return
    if "scale" in run.opt and network.upscale != scale:
        yield section.error(f"{network.upscale} differs from scale: {scale}; give both the same number", "upscale")
    for dataset in run.opt.sections("datasets"):
        channels, how = (1, "with") if dataset["color"] == "y" else (3, "without")
        if dataset["type"] in NEEDED and network.in_chans != channels:
            text = f"{network.in_chans}, but images of {dataset.where()} have {channels} ({how} color: y)"
            yield section.error(text, "in_chans")
        elif dataset["type"] == "PairedImageDataset" and not network.adds_mean_back:
            text = f"{section['num_out_ch']}; GT of {dataset.where()} has {channels} channels"
            yield section.error(text, "num_out_ch")


def check_backend(device: torch.device) -> None:
    """Raise an InputError where the environment forces a backend that is unknown, or does not support the device.

    Args:
        device: without an index, that of PyTorch's current GPU.
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    try:
        ops.check_environment(device)
    except (ValueError, RuntimeError) as failure:
        raise InputError(str(failure)) from failure


@reported
def model_problems(run: Run) -> Iterator[Problem]:
    """Find a backend that cannot run here, and a model that is not registered or lacks its discriminator."""
    on_gpu, name = run.opt["num_gpu"] and torch.cuda.is_available(), run.opt["model_type"]
    if fault := error_of(check_backend, run.context.device if on_gpu else torch.device("cpu")):
        yield Problem(fault)
    if name is not None:
        run.model = registered("model_type", name, "MODEL_REGISTRY")
        # By name: the copies of BasicSR in MambaIR and others lack the class.
        gan = "SRGANModel" in [cls.__name__ for cls in getattr(run.model, "__mro__", ())]
        if gan and run.context.is_train and "network_d" not in run.opt:
            yield run.opt.error(f"{name}: has a discriminator; expected a section network_d", "model_type")


def optimizer_problems(run: Run) -> Iterator[Problem]:
    """Make the optimizer and the scheduler, and find their errors."""
    section, model = run.train.section("optim_g"), run.opt["model_type"]

    def find_optimizer(name):
        if model == SR_MODEL and name != "Adam":
            raise InputError(f"train: optim_g: type: {name}: SRModel takes Adam only; ContrastModel takes others")
        return optimizer_class(name)

    def optimize(cls, arguments):
        if run.network is not None:
            cls(list(run.network.parameters()), **arguments)
        run.optimizer = cls([torch.nn.Parameter(torch.zeros(2, 2))], **arguments)

    def find_scheduler(name):
        import basicsr.models.lr_scheduler as schedulers

        if name not in SCHEDULERS:
            raise InputError(f"train: scheduler: type: {name!r} is not in BasicSR; {hint(name, SCHEDULERS, 'it has ')}")
        return getattr(schedulers, SCHEDULERS[name])

    def schedule(cls, arguments):
        run.scheduler = cls(run.optimizer or torch.optim.SGD([torch.zeros(1)], section["lr"] or 1.0), **arguments)

    # Models of others may have optimizers of their own.
    if "optim_g" in run.train and (model in KNOWN_MODELS or section["type"] in (None, "Adam")):
        yield from _part_problems(section, find_optimizer, optimize, "Adam", ("params",))
        if "lr" not in section:
            yield section.error("missing; expected one such as !!float 2e-4", "lr")
    if "scheduler" in run.train:
        scheduler = run.train.section("scheduler")
        yield from _part_problems(scheduler, find_scheduler, schedule, "MultiStepLR", ("optimizer",))


def loss_problems(run: Run) -> Iterator[Problem]:
    """Find errors of the losses and of their gradients."""
    losses = [run.train.section(key) for key in ("pixel_opt", "perceptual_opt") if run.train[key]]
    if not losses:
        yield run.train.error("no loss to train with; expected pixel_opt or perceptual_opt", "pixel_opt")
    for section in losses:
        find = partial(registered, section.where("type"), registry="LOSS_REGISTRY")
        yield from _part_problems(section, find, _train, "MSELoss")


def _is_tried(part):
    return part.__name__ not in NOT_TRIED and part.__module__.startswith("basicsr.")


def _train(cls, arguments):
    if _is_tried(cls):
        cls(**arguments)(torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(1, 3, 8, 8)).backward()


def metric_problems(run: Run) -> Iterator[Problem]:
    """Find errors of ``val: metrics``, each computed on a small image."""
    for section in run.opt.sections("val", "metrics"):
        find = partial(registered, section.where("type"), registry="METRIC_REGISTRY")
        # BasicSR reads it beside the arguments.
        section.pop("better", None)
        found = list(_part_problems(section, find, _measure, "calculate_psnr", ("img", "img2")))
        yield from found
        if not found and "img2" in inspect.signature(find(section["type"])).parameters:
            for dataset in run.opt.sections("datasets"):
                if dataset["type"] == "SingleImageDataset" and dataset["phase"] != "train":
                    yield section.error(f"{dataset.where()} has no GT images to compare with; write 'metrics: ~'")


def _measure(metric, arguments):
    if _is_tried(metric):
        image = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        # schedule.size_problems compares the border with the images.
        small = {"crop_border": min(arguments["crop_border"], 4)} if "crop_border" in arguments else {}
        metric(img=image, img2=image[::-1], **arguments | small)
