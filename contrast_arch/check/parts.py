"""Network, optimizer, scheduler, losses and metrics: each is made from its section and tried on very little."""

import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch

from contrast_arch import ops
from contrast_arch.archs.network import SRNetwork
from contrast_arch.check.context import Run, Section
from contrast_arch.errors import InputError, hint, located, one_line
from contrast_arch.models.optimizers import optimizer_class
from contrast_arch.options.problems import Problem
from contrast_arch.options.schema import CONTRAST_MODEL, SR_MODEL
from contrast_arch.options.validation import KNOWN_MODELS
from contrast_arch.weights import network as weights_network

SCHEDULERS = {
    "MultiStepLR": "MultiStepRestartLR",
    "MultiStepRestartLR": "MultiStepRestartLR",
    "CosineAnnealingRestartLR": "CosineAnnealingRestartLR",
}
# PerceptualLoss would download the weights of VGG; NIQE reads its constants from a file and needs large images.
NOT_TRIED = ("PerceptualLoss", "calculate_niqe")
LOSSES = ("pixel_opt", "perceptual_opt")
# Of BasicSR's datasets, those whose items its SRModel can use, with the keys that they need; others give sequences, or
# GT alone.
OF_PAIRS = ("dataroot_gt", "dataroot_lq", "io_backend")
NEEDED = {"PairedImageDataset": OF_PAIRS, "SingleImageDataset": ("dataroot_lq", "io_backend")}


def registered(key: str, name: str, registry: str) -> Callable:
    """Find the class or function of a name in one of BasicSR's registries.

    Args:
        key: where the name stands, for messages.
        registry: such as "ARCH_REGISTRY".

    Raises:
        InputError: the name is not registered.
    """
    for part in ("archs", "data", "losses", "metrics", "models"):  # their import fills the registries
        importlib.import_module(f"basicsr.{part}")
    registry = getattr(importlib.import_module("basicsr.utils.registry"), registry)
    known = list(registry.keys())
    # BasicSR looks for the second name after the first.
    found = next((each for each in (name, f"{name}_basicsr") if each in known), None)
    if found is None:
        own = "for what a project registers write 'imports: [MODULE]', or --import MODULE"
        raise InputError(f"{key}: {name!r} is not registered; {hint(name, known, 'registered are ')}; {own}")
    return registry.get(found)


def trains_as_srmodel(opt: dict, *methods: str) -> bool:
    """True if the model of an option file has methods as BasicSR's SRModel has them."""
    from basicsr.models.sr_model import SRModel

    try:
        model = registered("model_type", opt.get("model_type"), "MODEL_REGISTRY")
    except InputError:
        return False
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


def _argument_problems(section: Section, call: Callable, given: dict, provided: Iterable[str] = ()):
    """Find arguments that a call does not take, or needs and does not get; ``**kwargs`` takes none."""
    name = getattr(call, "__name__", str(call))
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in provided]
    known = [p.name for p in named]
    if not known and any(p.kind == p.VAR_KEYWORD for p in parameters):
        return
    for key in given:
        if key not in known:
            text = hint(key, known, "its arguments: ") if known else "it takes none"
            yield Problem(f"{section.where()}: {name} has no argument {key!r}; {text}", (*section.path, str(key)))
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in given:
            yield Problem(f"{section.where()}: {name} needs {parameter.name}", (*section.path, parameter.name))


def _part_problems(
    section: Section, find: Callable, trial: Callable, example: str, provided: Iterable[str] = ()
) -> Iterator[Problem]:
    """Find a part by its type, compare its arguments with its signature, and use it in ``trial``."""
    name, arguments = _split(section.values)
    if not name:
        yield section.error(f"missing; expected one such as {example}", "type")
        return
    try:
        call = find(name)
    except InputError as failure:
        yield Problem(str(failure), (*section.path, "type"))
        return
    # BasicSR reads "better" beside the arguments of a metric.
    own = {key: value for key, value in arguments.items() if key != "better"}
    wrong = list(_argument_problems(section, call, own, provided))
    yield from wrong
    fault = None if wrong else error_of(trial, call, arguments)
    if fault:
        yield section.error(f"{name}: {fault}")


def _split(section):
    arguments = deepcopy(dict(section))
    return arguments.pop("type", ""), arguments


def build_on_meta(network_g: dict) -> torch.nn.Module | None:
    """Build the network without memory.

    Returns:
        The network on the meta device; None for networks of others, whose constructors may do anything.

    Raises:
        InputError: unknown type, unknown argument, or a value that is refused.
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
        run.network = network = build_on_meta(section.values)
    except InputError as failure:
        # The key that the message names first.
        named = [(str(failure).find(key), key) for key in section.values if key != "type" and key in str(failure)]
        yield Problem(str(failure), ("network_g", min(named)[1] if named else "type"))
        return
    if network is None:
        cls = registered(section.where("type"), section["type"], "ARCH_REGISTRY")
        yield from _argument_problems(section, cls, weights_network.arguments_of(section.values))
        return
    if "scale" in run.opt and network.upscale != scale:
        yield section.error(f"{network.upscale} differs from scale: {scale}; give both the same number", "upscale")
    for dataset in run.opt.section("datasets"):
        channels, how = (1, "with") if dataset["color"] == "y" else (3, "without")
        if dataset["type"] in NEEDED and network.in_chans != channels:
            text = f"{network.in_chans}, but images of {dataset.where()} have {channels} ({how} color: y)"
            yield section.error(text, "in_chans")
        elif dataset["type"] == "PairedImageDataset" and not network.adds_mean_back:
            text = f"{section['num_out_ch']}; GT of {dataset.where()} has {channels} channels"
            yield section.error(text, "num_out_ch")


def check_backend(device: torch.device) -> None:
    """Check the backends that the environment forces, if it does.

    Args:
        device: without an index, that of PyTorch's current GPU.

    Raises:
        InputError: one is unknown, or does not support the device.
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    try:
        ops.check_environment(device)
    except (ValueError, RuntimeError) as failure:
        raise InputError(str(failure)) from failure


def model_problems(run: Run) -> Iterator[Problem]:
    """Find a backend that cannot run here, and a model that is not registered or lacks its discriminator."""
    on_gpu = run.opt["num_gpu"] and torch.cuda.is_available()
    if fault := error_of(check_backend, run.context.device if on_gpu else torch.device("cpu")):
        yield Problem(fault)
    if "model_type" in run.opt and (fault := error_of(_check_model, run.opt)):
        yield Problem(fault, ("model_type",))


def _check_model(opt):
    from basicsr.models.srgan_model import SRGANModel

    model = registered("model_type", opt["model_type"], "MODEL_REGISTRY")
    if opt["is_train"] and "network_d" not in opt and isinstance(model, type) and issubclass(model, SRGANModel):
        raise InputError(f"model_type: {opt['model_type']}: has a discriminator; expected a section network_d")


def optimizer_and_scheduler(opt: dict) -> tuple[torch.optim.Optimizer, Any]:
    """Make the optimizer of a single weight, and its scheduler; their errors are raised."""
    name, arguments = _split(opt["train"]["optim_g"])
    optimizer = optimizer_class(name)([torch.nn.Parameter(torch.zeros(2, 2))], **arguments)
    return optimizer, make_scheduler(optimizer, opt["train"]["scheduler"])


def make_scheduler(optimizer: torch.optim.Optimizer, section: dict) -> Any:
    """Make BasicSR's scheduler of a section; its errors are raised."""
    name, arguments = _split(section)
    return _scheduler_class(name)(optimizer, **arguments)


def _scheduler_class(name):
    import basicsr.models.lr_scheduler as schedulers

    if name not in SCHEDULERS:
        known = hint(name, SCHEDULERS, "BasicSR has ")
        raise InputError(f"train: scheduler: type: {name!r} is not in BasicSR; {known}")
    return getattr(schedulers, SCHEDULERS[name])


def optimizer_problems(run: Run) -> Iterator[Problem]:
    """Find errors of the optimizer, of its first step, and of the scheduler."""
    section, model = run.train.section("optim_g"), run.opt["model_type"]

    def find(name):
        if model == SR_MODEL and name != "Adam":
            others = f"'model_type: {CONTRAST_MODEL}' takes the others of PyTorch"
            raise InputError(f"train: optim_g: type: {name}: BasicSR's SRModel takes Adam only; {others}")
        return optimizer_class(name)

    def trial(cls, arguments):
        weight = torch.nn.Parameter(torch.zeros(2, 2))
        cls(list(run.network.parameters()) if run.network is not None else [weight], **arguments)
        if run.opt["num_gpu"] == 0:
            weight.grad = torch.ones(2, 2)
            cls([weight], **arguments).step()

    # Models of others may have optimizers of their own.
    if "optim_g" in run.train and (model in KNOWN_MODELS or section["type"] in (None, "Adam")):
        yield from _part_problems(section, find, trial, "Adam", ("params",))
        if "lr" not in section:
            yield section.error("missing; expected one such as !!float 2e-4", "lr")
    if "scheduler" in run.train:

        def make(cls, arguments):
            cls(torch.optim.Adam([torch.zeros(1)]), **arguments)

        yield from _part_problems(run.train.section("scheduler"), _scheduler_class, make, "MultiStepLR", ("optimizer",))


def loss_problems(run: Run) -> Iterator[Problem]:
    """Find errors of the losses and of their gradients."""
    if not any(run.train[key] for key in LOSSES):
        yield run.train.error("no loss to train with; expected pixel_opt or perceptual_opt", "pixel_opt")
    for section in (run.train.section(key) for key in LOSSES if run.train[key]):
        find = partial(registered, section.where("type"), registry="LOSS_REGISTRY")
        yield from _part_problems(section, find, _train, "MSELoss")


def _train(cls, arguments):
    if cls.__name__ not in NOT_TRIED and cls.__module__.startswith("basicsr."):
        cls(**arguments)(torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(1, 3, 8, 8)).backward()


def metric_problems(run: Run) -> Iterator[Problem]:
    """Find errors of ``val: metrics``, each computed on a small image."""
    for section in run.opt.section("val", "metrics"):
        find = partial(registered, section.where("type"), registry="METRIC_REGISTRY")
        found = list(_part_problems(section, find, _measure, "calculate_psnr", ("img", "img2")))
        yield from found
        if not found and "img2" in inspect.signature(find(section["type"])).parameters:
            for dataset in run.opt.section("datasets"):
                if dataset["type"] == "SingleImageDataset" and dataset["phase"] != "train":
                    text = f"{section['type']} needs GT images, and {dataset.where()} (SingleImageDataset) has none"
                    yield section.error(f"{text}; write 'metrics: ~'")


def _measure(metric, arguments):
    if metric.__name__ not in NOT_TRIED and metric.__module__.startswith("basicsr."):
        image = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        # schedule.size_problems compares the border with the images.
        small = {"crop_border": min(arguments["crop_border"], 4)} if "crop_border" in arguments else {}
        metric(img=image, img2=image[::-1], **arguments | small)
