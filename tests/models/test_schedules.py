"""Rates of the learning rate over a warm-up, milestones and restarts, in one run and resumed."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel

from contrast_arch.errors import InputError
from contrast_arch.models.contrast_model import ContrastModel
from contrast_arch.models.optimizers import fit_state
from tests.conftest import tiny_options

MODELS = [SRModel, ContrastModel]


def model_of(cls, train):
    """A model without a network: the optimizer of one weight, and the schedule, of a section ``train``."""
    model = cls.__new__(cls)
    model.opt, model.schedulers = {"train": deepcopy(train)}, []
    arguments = dict(train["optim_g"])
    optimizer = getattr(torch.optim, arguments.pop("type"))
    model.optimizers = [optimizer([torch.nn.Parameter(torch.zeros(2, 2))], **arguments)]
    model.setup_schedulers()
    return model


def rates(model, first, last):
    """The rates of iterations, as BasicSR's trainer would set them."""
    (optimizer,), found = model.optimizers, []
    for iteration in range(first, last + 1):
        BaseModel.update_learning_rate(model, iteration, model.opt["train"]["warmup_iter"])
        optimizer.param_groups[0]["params"][0].grad = torch.ones(2, 2)
        optimizer.step()
        found += model.get_current_learning_rate()
    return found


def state_of(model, iteration):
    parts = {"optimizers": model.optimizers, "schedulers": model.schedulers}
    return deepcopy({"iter": iteration} | {key: [part.state_dict() for part in of] for key, of in parts.items()})


def resumed(cls, train, state, override=False):
    made, model = model_of(cls, train), model_of(cls, train)
    fit_state(made.optimizers[0], made.schedulers[0], tiny_options(Path()) | {"train": train}, state, override)
    BaseModel.resume_training(model, state)
    return model


def section(scheduler, warmup=-1, **optim_g):
    optim_g = {"type": "Adam", "lr": 1e-3, **optim_g}
    return {"optim_g": optim_g, "scheduler": scheduler, "warmup_iter": warmup, "total_iter": 8}


def multi_step(*milestones, **more):
    return {"type": "MultiStepLR", "milestones": list(milestones), "gamma": 0.5, **more}


def cosine(*periods):
    weights = [1] * len(periods)
    return {"type": "CosineAnnealingRestartLR", "periods": list(periods), "restart_weights": weights, "eta_min": 1e-6}


RESTARTS = {"restarts": [0, 4], "restart_weights": [1, 0.7]}


@pytest.mark.parametrize(
    "scheduler",
    [
        multi_step(2, 2, 5, gamma=0.3),
        multi_step(),
        multi_step(0, 3.0),
        multi_step(1, 3, 4, 6, **RESTARTS),
        multi_step(1, 3, restarts=[2], restart_weights=[0.3]),
        cosine(3, 5),
    ],
)
def test_without_a_warm_up_the_rates_are_basicsrs(scheduler):
    """Bit for bit."""
    ours, basicsrs = (rates(model_of(cls, section(scheduler)), 1, 8) for cls in (ContrastModel, SRModel))
    assert ours == basicsrs and (len(set(ours)) > 1 or not scheduler.get("milestones"))


@pytest.mark.parametrize(
    "scheduler, warmup, expected, basicsrs",
    [
        (multi_step(), 2, [0.5] + [1] * 7, [0.5] * 8),
        (multi_step(2, 6), 4, [0.25, 0.5, 0.75, 0.5, 0.5, 0.5, 0.25, 0.25], [0.25, 0.5] + [0.75] * 4 + [0.375] * 2),
        (multi_step(3, **RESTARTS), 3.0, [1 / 3, 2 / 3, 1, 0.5] + [0.7] * 4, [1 / 3, 2 / 3, 2 / 3, 1 / 3] + [0.7] * 4),
    ],
)
def test_after_a_warm_up_the_rates_are_the_files(scheduler, warmup, expected, basicsrs):
    """Also of a run that is cut anywhere, and of one that SRModel began."""
    train = section(scheduler, warmup)
    expected, basicsrs = ([1e-3 * rate for rate in found] for found in (expected, basicsrs))
    assert rates(model_of(ContrastModel, train), 1, 8) == pytest.approx(expected, rel=1e-9)
    assert rates(model_of(SRModel, train), 1, 8) == pytest.approx(basicsrs, rel=1e-9)
    for began in MODELS:
        for cut in range(1, 8):
            first = model_of(began, train)
            rates(first, 1, cut)
            model = resumed(ContrastModel, train, state_of(first, cut))
            assert rates(model, cut + 1, 8) == pytest.approx(expected[cut:], rel=1e-9), (began, cut)


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("in_file", [multi_step(2, 6), multi_step(1, 5, **RESTARTS), cosine(3, 5)])
@pytest.mark.parametrize("in_state", [multi_step(3), cosine(8), cosine(4)])
def test_the_files_values_in_place_of_the_states(cls, in_state, in_file):
    """The rates are those of a run that had them from the beginning."""
    train = section(in_file, lr=4e-4, betas=[0.8, 0.99], weight_decay=0.1)
    first = model_of(cls, section(in_state))
    rates(first, 1, 4)
    state = state_of(first, 4)
    model = resumed(cls, train, state, override=True)
    (group,) = model.optimizers[0].param_groups
    assert group["betas"] == (0.8, 0.99) and group["weight_decay"] == 0.1
    assert rates(model, 5, 8) == pytest.approx(rates(model_of(SRModel, train), 1, 8)[4:], rel=1e-9)
    made = model_of(cls, train)
    assert fit_state(made.optimizers[0], made.schedulers[0], tiny_options(Path()) | {"train": train}, state) == []


@pytest.mark.parametrize("name", ["SGD", "NAdam", "RMSprop"])
def test_a_state_of_another_optimizer_that_does_not_say_it(name):
    """As BasicSR saves it."""
    first = model_of(SRModel, section(multi_step()))
    rates(first, 1, 2)
    state = state_of(first, 2)
    del state["optimizers"][0]["param_groups"][0]["maximize"]  # an earlier PyTorch has none
    assert resumed(ContrastModel, section(multi_step()), deepcopy(state))
    with pytest.raises(InputError, match=f"type: {name}: the training state is of another optimizer; write its type"):
        resumed(ContrastModel, section(multi_step(), type=name), state)
