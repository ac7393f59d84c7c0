"""Pairs to check, and no GPU."""

import pytest
import torch
import yaml

from contrast_arch.check import RunContext, build_on_meta, find_problems
from tests.conftest import TINY, tiny_options, write_pairs

# In place of a value: the key is left out.
ABSENT = object()


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def gpus(monkeypatch):
    """Makes as many GPUs seem to be there; nothing is computed on them."""

    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with pairs, the working directory."""
    write_pairs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edited(options, edits):
    """Set keys by their paths: "train.total_iter"."""
    for path, value in (edits or {}).items():
        *parents, last = path.split(".") if isinstance(path, str) else path
        section = options
        for key in parents:
            section = section.setdefault(key, {})
        if value is ABSENT:
            section.pop(last, None)
        else:
            section[last] = value
    return options


@pytest.fixture
def check(root):
    """Checks tiny options with changes by path; gives "SEVERITY: MESSAGE" of all findings."""

    def run(edits=None, is_train=True, only=("error", "warning"), **context):
        options = edited(tiny_options(root), edits)
        (root / "options.yml").write_text(yaml.safe_dump(options, sort_keys=False))
        problems = find_problems("options.yml", RunContext(is_train, **context))
        return [f"{p.severity}: {p.message}" for p in problems if p.severity in only]

    return run


def alike(found, expected):
    """True if texts are those expected; where an expected one ends in ..., its beginning counts."""
    return len(found) == len(expected) and all(
        text.startswith(end.removesuffix("...")) if end.endswith("...") else text == end
        for text, end in zip(found, expected, strict=True)
    )


@pytest.fixture
def weights():
    return {key: torch.ones_like(value, device="cpu") for key, value in build_on_meta(TINY).state_dict().items()}


@pytest.fixture
def state(root, weights):
    """Saves a training state of tiny options, with its checkpoint, in experiments/tiny."""

    def save(iteration, optimizer=torch.optim.Adam, scheduler=None, arguments=None, **content):
        from basicsr.models.lr_scheduler import MultiStepRestartLR

        parameters = [torch.nn.Parameter(weights[name]) for name, _ in build_on_meta(TINY).named_parameters()]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        made = optimizer(parameters, **{"lr": 1e-3, **(arguments or {})})
        schedule = scheduler(made) if scheduler else MultiStepRestartLR(made, [3], gamma=0.5)
        for _ in range(iteration):
            made.step()
            schedule.step()
        content |= {"optimizers": [made.state_dict()], "schedulers": [schedule.state_dict()]}
        folder = root / "experiments" / "tiny"
        for name in ("training_states", "models"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        content |= {"iter": iteration, "epoch": 0}
        torch.save(content, folder / "training_states" / f"{iteration}.state")
        torch.save({"params": weights}, folder / "models" / f"net_g_{iteration}.pth")

    return save
