"""Optimizer, scheduler, losses and metrics: each is made from its section and tried on very little."""

import inspect
from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import torch

from contrast_arch.check.kinds import ITERATIONS, NUMBERS, PERIODS, number, shortened, whole
from contrast_arch.check.problems import Problem, error
from contrast_arch.check.registry import argument_problems, error_of, hint, registered
from contrast_arch.errors import InputError
from contrast_arch.models.optimizers import optimizer_class, optimizer_names
from contrast_arch.models.settings import OURS

SCHEDULERS = {
    "MultiStepLR": "MultiStepRestartLR",
    "MultiStepRestartLR": "MultiStepRestartLR",
    "CosineAnnealingRestartLR": "CosineAnnealingRestartLR",
}
SCHEDULER_KEYS = {
    "milestones": ITERATIONS,
    "gamma": number(above=0),
    "restarts": ITERATIONS,
    "restart_weights": NUMBERS,
    "periods": PERIODS,
    "eta_min": number(0),
    "last_epoch": whole(-1, -1),
}
# Of VGG features, whose weights BasicSR would download.
NOT_TRIED = ("PerceptualLoss",)
# Its constants are read from a file, and small images are too small for it.
METRICS_NOT_TRIED = ("calculate_niqe",)
LOSSES = ("pixel_opt", "perceptual_opt")


def _section(options, key):
    """A section's type and its arguments; an empty type where there is none."""
    section = deepcopy(options.get(key)) or {}
    return section.pop("type", ""), dict(section)


def optimizer_problems(opt: dict, network: torch.nn.Module | None) -> Iterator[Problem]:
    """What keeps ``train: optim_g`` from being made and from making a step.

    Args:
        opt: see :func:`~contrast_arch.check.context.completed`.
        network: on the meta device; None where it is not known.
    """
    if "optim_g" not in opt["train"]:
        return
    path, (name, arguments) = ("train", "optim_g"), _section(opt["train"], "optim_g")
    if not name or "lr" not in arguments:
        yield error(
            (*path, "lr" if name else "type"),
            "train: optim_g needs a type and an lr, such as {type: Adam, lr: !!float 2e-4}",
        )
    if not name:
        return
    model = opt.get("model_type")
    if model != OURS and name != "Adam":
        if model == "SRModel":
            others = f"; 'model_type: {OURS}' takes all of PyTorch's" if name in optimizer_names() else ""
            yield error((*path, "type"), f"train: optim_g: type: {name}: SRModel of BasicSR takes Adam only{others}")
        return
    try:
        optimizer = optimizer_class(name)
    except InputError as failure:
        yield error((*path, "type"), str(failure))
        return
    wrong = list(argument_problems(path, optimizer, arguments, provided=("params",)))
    yield from wrong
    if "lr" not in arguments:
        return
    fault = number(0).fits(arguments["lr"]) or f"lr: {shortened(arguments['lr'])}: expected a number of at least 0"
    if fault is True and not wrong:
        weights = list(network.parameters()) if network is not None else [torch.nn.Parameter(torch.zeros(2, 2))]
        fault = error_of(lambda: optimizer(weights, **arguments))
        if fault is None and opt.get("num_gpu") == 0:
            fault = error_of(lambda: _step(optimizer, arguments))
    if isinstance(fault, str):
        yield error(path, f"train: optim_g: {name}: {fault}")


def _step(optimizer, arguments):
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.ones(2, 2)
    optimizer([weight], **arguments).step()


def optimizer_and_scheduler(opt: dict) -> tuple[torch.optim.Optimizer, object]:
    """Make the optimizer, of a single weight, and its schedule; what keeps them from being made is raised."""
    import basicsr.models.lr_scheduler as schedulers

    name, arguments = _section(opt["train"], "optim_g")
    optimizer = optimizer_class(name)([torch.nn.Parameter(torch.zeros(2, 2))], **arguments)
    name, arguments = _section(opt["train"], "scheduler")
    return optimizer, getattr(schedulers, SCHEDULERS[name])(optimizer, **arguments)


def scheduler_problems(opt: dict) -> Iterator[Problem]:
    """What keeps ``train: scheduler`` from being made."""
    import basicsr.models.lr_scheduler as schedulers

    if "scheduler" not in opt["train"]:
        return
    path, (name, arguments) = ("train", "scheduler"), _section(opt["train"], "scheduler")
    if name not in SCHEDULERS:
        if name:
            known = hint(name, SCHEDULERS, "BasicSR has ")
            yield error((*path, "type"), f"train: scheduler: type: {name!r} is none of BasicSR's; {known}")
        else:
            yield error((*path, "type"), f"train: scheduler has no type; BasicSR has {', '.join(SCHEDULERS)}")
        return
    cls = getattr(schedulers, SCHEDULERS[name])
    wrong = list(argument_problems(path, cls, arguments, provided=("optimizer",)))
    for key, value in arguments.items():
        kind = SCHEDULER_KEYS.get(key)
        if kind is not None and not kind.fits(value):
            wrong.append(error((*path, key), f"train: scheduler: {key}: {shortened(value)}: expected {kind.expected}"))
    yield from wrong
    if not wrong:
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
        fault = error_of(lambda: cls(optimizer, **arguments))
        if fault:
            yield error(path, f"train: scheduler: {fault}")


def loss_problems(opt: dict) -> Iterator[Problem]:
    """What keeps the losses from being made and from having a gradient."""
    if not any(opt["train"].get(key) for key in LOSSES):
        yield error(("train", "pixel_opt"), "train has neither pixel_opt nor perceptual_opt: no loss to train with")
    for key in LOSSES:
        name, arguments = _section(opt["train"], key)
        path = ("train", key)
        if not opt["train"].get(key):
            continue
        if not name:
            yield error((*path, "type"), f"train: {key} has no type, such as MSELoss")
            continue
        try:
            cls = registered(f"train: {key}: type", name, "LOSS_REGISTRY")
        except InputError as failure:
            yield error((*path, "type"), str(failure))
            continue
        wrong = list(argument_problems(path, cls, arguments))
        yield from wrong
        if wrong:
            continue
        if name in NOT_TRIED:
            fault = error_of(lambda arguments=arguments: _check_perceptual(**arguments))
        elif cls.__module__.startswith("basicsr."):
            fault = error_of(lambda key=key, cls=cls, arguments=arguments: _backward(key, cls(**arguments)))
        else:
            continue
        if fault:
            yield error(path, f"train: {key}: {name}: {fault}")


def _measure(metric, arguments):
    image = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    metric(img=image, img2=image[::-1], **arguments)


def _backward(key, loss):
    sr, gt = torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(1, 3, 8, 8)
    found = loss(sr, gt)
    if key == "perceptual_opt":
        if not (isinstance(found, tuple) and len(found) == 2):
            raise ValueError(
                "BasicSR expects two losses of it, as those of PerceptualLoss; a single one is a pixel_opt"
            )
        found = sum(value for value in found if value is not None)
    if not (isinstance(found, torch.Tensor) and found.numel() == 1):
        raise ValueError("it gives more than one number; write reduction: mean, or sum")
    found.backward()


def _check_perceptual(layer_weights, vgg_type="vgg19", criterion="l1", **others):
    """What VGGFeatureExtractor and PerceptualLoss would refuse, some of it without saying so."""
    from basicsr.archs.vgg_arch import NAMES

    if criterion not in ("l1", "fro"):
        raise ValueError(f"criterion: {criterion}: expected l1 or fro (l2 fails in BasicSR 1.4.2)")
    layers = NAMES.get(str(vgg_type).replace("_bn", ""))
    if layers is None:
        raise ValueError(f"vgg_type: {vgg_type}: expected {', '.join(NAMES)}, or one of them with _bn")
    if not isinstance(layer_weights, dict) or not layer_weights:
        raise ValueError(f"layer_weights: {layer_weights}: expected weights of layers, such as {{conv5_4: 1}}")
    for layer, weight in layer_weights.items():
        if layer not in layers:
            raise ValueError(f"layer_weights: {layer!r} is no layer of {vgg_type}; {hint(layer, layers)}")
        if not number().fits(weight):
            raise ValueError(f"layer_weights: {layer}: {weight!r}: expected a number")
    for key, value in others.items():
        if key.endswith("_weight") and not number().fits(value):
            raise ValueError(f"{key}: {value!r}: expected a number")


def metric_problems(opt: dict) -> Iterator[Problem]:
    """What keeps ``val: metrics`` from being computed."""
    data = {"img", "img2"}
    for label, section in ((opt.get("val") or {}).get("metrics") or {}).items():
        path, (name, arguments) = ("val", "metrics", label), _section({label: section}, label)
        where = ": ".join(path)
        if not name:
            yield error((*path, "type"), f"{where} has no type, such as calculate_psnr")
            continue
        try:
            function = registered(f"{where}: type", name, "METRIC_REGISTRY")
        except InputError as failure:
            yield error((*path, "type"), str(failure))
            continue
        if arguments.get("better", "higher") not in ("higher", "lower"):
            yield error((*path, "better"), f"{where}: better: {arguments['better']!r}: expected higher or lower")
        wrong = list(argument_problems(path, function, arguments, provided=data, more=("better",)))
        yield from wrong
        border = arguments.get("crop_border", 0)
        if not whole(0).fits(border):
            text = f"{where}: crop_border: {shortened(border)}: expected {whole(0).expected}, the scale as a rule"
            yield error((*path, "crop_border"), text)
        elif not wrong and name not in METRICS_NOT_TRIED and function.__module__.startswith("basicsr."):
            # The border itself is held against the images elsewhere.
            small = arguments | {"crop_border": min(border, 4)}
            fault = error_of(lambda function=function, small=small: _measure(function, small))
            if fault:
                yield error(path, f"{where}: {name}: {fault}")
        if "img2" in inspect.signature(function).parameters:
            for phase, dataset in opt["datasets"].items():
                if dataset.get("type") == "SingleImageDataset" and phase.split("_")[0] in ("val", "test"):
                    text = f"{where}: {name} needs GT images, and datasets: {phase} (SingleImageDataset) has none"
                    yield error(path, f"{text}; write 'metrics: ~'")
