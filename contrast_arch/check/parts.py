"""Optimizer, scheduler, losses and metrics: each is made from its section and tried on very little."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch

from contrast_arch.check.registry import argument_problems, error_of, registered
from contrast_arch.check.section import Section
from contrast_arch.errors import InputError, hint
from contrast_arch.models.optimizers import optimizer_class, optimizer_names
from contrast_arch.options.kinds import fits, number
from contrast_arch.options.problems import Problem, error
from contrast_arch.options.schema import CONTRAST_MODEL
from contrast_arch.options.validation import KNOWN_MODELS

SCHEDULERS = {
    "MultiStepLR": "MultiStepRestartLR",
    "MultiStepRestartLR": "MultiStepRestartLR",
    "CosineAnnealingRestartLR": "CosineAnnealingRestartLR",
}
# PerceptualLoss would download the weights of VGG; NIQE reads its constants from a file and needs large images.
NOT_TRIED = ("PerceptualLoss", "calculate_niqe")
LOSSES = ("pixel_opt", "perceptual_opt")


def optimizer_and_scheduler(opt: dict) -> tuple[torch.optim.Optimizer, Any]:
    """Make the optimizer of a single weight, and its scheduler; what keeps them from being made is raised."""
    name, arguments = _split(opt["train"]["optim_g"])
    optimizer = optimizer_class(name)([torch.nn.Parameter(torch.zeros(2, 2))], **arguments)
    return optimizer, make_scheduler(optimizer, opt["train"]["scheduler"])


def make_scheduler(optimizer: torch.optim.Optimizer, section: dict) -> Any:
    """Make BasicSR's scheduler of a section; what keeps it from being made is raised."""
    name, arguments = _split(section)
    return _scheduler_class(name)(optimizer, **arguments)


def _scheduler_class(name):
    import basicsr.models.lr_scheduler as schedulers

    if name not in SCHEDULERS:
        known = hint(name, SCHEDULERS, "BasicSR has ")
        raise InputError(f"train: scheduler: type: {name!r} is not in BasicSR; {known}")
    return getattr(schedulers, SCHEDULERS[name])


def _split(section):
    """Type and arguments of a section; an empty type where there is none."""
    arguments = deepcopy(dict(section))
    return arguments.pop("type", ""), arguments


def _part_problems(
    section: Section,
    find: Callable[[str], Callable],
    trial: Callable[[Callable, dict], Any],
    example: str,
    provided: Iterable[str] = (),
) -> Iterator[Problem]:
    """Find what keeps a part from being made and from working.

    Args:
        find: gives the class or function of a type; raises InputError for an unknown one.
        trial: uses it with the arguments of the section.
        example: of a type.
        provided: arguments that come from elsewhere.
    """
    name, arguments = _split(section.values)
    if not name:
        yield section.error(f"missing; expected one such as {example}", "type")
        return
    try:
        call = find(name)
    except InputError as failure:
        yield error((*section.path, "type"), str(failure))
        return
    # BasicSR reads "better" beside the arguments of a metric.
    own = {key: value for key, value in arguments.items() if key != "better"}
    wrong = list(argument_problems(section.path, call, own, provided))
    yield from wrong
    fault = None if wrong else error_of(trial, call, arguments)
    if fault:
        yield section.error(f"{name}: {fault}")


def optimizer_problems(opt: Section, network: torch.nn.Module | None) -> Iterator[Problem]:
    """Find what keeps ``train: optim_g`` from being made and from making a step.

    Args:
        opt: see :func:`~contrast_arch.check.context.completed`.
        network: on the meta device; None where it is not known.
    """
    section, model = opt.section("train", "optim_g"), opt["model_type"]
    others = model not in KNOWN_MODELS and section["type"] not in (None, "Adam")
    if others or "optim_g" not in opt.section("train"):
        return

    def find(name):
        if model == "SRModel" and name != "Adam":
            others = f"; 'model_type: {CONTRAST_MODEL}' takes all of PyTorch's" if name in optimizer_names() else ""
            raise InputError(f"train: optim_g: type: {name}: BasicSR's SRModel takes Adam only{others}")
        return optimizer_class(name)

    def trial(cls, arguments):
        cls(list(network.parameters()) if network is not None else [torch.nn.Parameter(torch.zeros(2, 2))], **arguments)
        if opt["num_gpu"] == 0:
            weight = torch.nn.Parameter(torch.zeros(2, 2))
            weight.grad = torch.ones(2, 2)
            cls([weight], **arguments).step()

    yield from _part_problems(section, find, trial, "Adam", ("params",))
    if "lr" not in section:
        yield section.error("missing; expected one such as !!float 2e-4", "lr")


def scheduler_problems(opt: Section) -> Iterator[Problem]:
    """Find what keeps ``train: scheduler`` from being made."""
    if "scheduler" in opt.section("train"):
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
        yield from _part_problems(
            opt.section("train", "scheduler"),
            _scheduler_class,
            lambda cls, arguments: cls(optimizer, **arguments),
            "MultiStepLR",
            ("optimizer",),
        )


def loss_problems(opt: Section) -> Iterator[Problem]:
    """Find what keeps the losses from being made and from having a gradient."""
    train = opt.section("train")
    if not any(train[key] for key in LOSSES):
        yield train.error("no loss to train with; expected pixel_opt or perceptual_opt", "pixel_opt")
    for section in (train.section(key) for key in LOSSES if train[key]):
        find = partial(registered, section.where("type"), registry="LOSS_REGISTRY")
        yield from _part_problems(section, find, partial(_train, section.path[-1]), "MSELoss")


def _train(key, cls, arguments):
    if cls.__name__ in NOT_TRIED:
        return _check_perceptual(**arguments)
    if not cls.__module__.startswith("basicsr."):
        return None
    loss = cls(**arguments)(torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(1, 3, 8, 8))
    if key == "perceptual_opt":
        if not (isinstance(loss, tuple) and len(loss) == 2):
            raise ValueError("BasicSR expects two losses, as those of PerceptualLoss; a single one is a pixel_opt")
        loss = sum(value for value in loss if value is not None)
    if not (isinstance(loss, torch.Tensor) and loss.numel() == 1):
        raise ValueError("it gives more than one number; write reduction: mean, or sum")
    return loss.backward()


def _check_perceptual(layer_weights, vgg_type="vgg19", criterion="l1", **others):
    """Raise what VGGFeatureExtractor and PerceptualLoss would refuse, some of it without a message."""
    from basicsr.archs.vgg_arch import NAMES

    layers = NAMES.get(str(vgg_type).replace("_bn", ""), ())
    if not layers:
        raise ValueError(f"vgg_type: {vgg_type}: expected {', '.join(NAMES)}, or one of them with _bn")
    if criterion not in ("l1", "fro"):
        raise ValueError(f"criterion: {criterion}: expected l1 or fro (l2 fails in BasicSR 1.4.2)")
    if not isinstance(layer_weights, dict) or not layer_weights:
        raise ValueError(f"layer_weights: {layer_weights}: expected weights of layers, such as {{conv5_4: 1}}")
    for layer in layer_weights:
        if layer not in layers:
            raise ValueError(f"layer_weights: {layer!r} is no layer of {vgg_type}; {hint(layer, layers)}")
    for key, value in (layer_weights | {key: others[key] for key in others if key.endswith("_weight")}).items():
        if not fits(number(), value):
            raise ValueError(f"{key}: {value!r}: expected a number")


def metric_problems(opt: Section) -> Iterator[Problem]:
    """Find what keeps ``val: metrics`` from being computed."""
    for section in opt.section("val", "metrics"):
        find = partial(registered, section.where("type"), registry="METRIC_REGISTRY")
        found = list(_part_problems(section, find, _measure, "calculate_psnr", ("img", "img2")))
        yield from found
        if any(problem.path == (*section.path, "type") for problem in found):
            continue
        if "img2" not in inspect.signature(find(section["type"])).parameters:
            continue
        for dataset in opt.section("datasets"):
            if dataset["type"] == "SingleImageDataset" and dataset["phase"] in ("val", "test"):
                text = f"{section['type']} needs GT images, and {dataset.where()} (SingleImageDataset) has none"
                yield section.error(f"{text}; write 'metrics: ~'")


def _measure(metric, arguments):
    if metric.__name__ in NOT_TRIED or not metric.__module__.startswith("basicsr."):
        return
    image = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    # The border itself is held against the images elsewhere.
    small = {"crop_border": min(arguments["crop_border"], 4)} if "crop_border" in arguments else {}
    metric(img=image, img2=image[::-1], **arguments | small)
