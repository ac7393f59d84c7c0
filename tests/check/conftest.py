"""Pairs to check, and no GPU."""

import pytest
import torch
import yaml

from contrast_arch.check import RunContext, find_problems
from tests.conftest import tiny_options, write_pairs


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


@pytest.fixture
def check(root):
    """Checks tiny options with changes of sections; gives (severity, message) but for those on the interval.

    A change may be a function of the options too.
    """

    def run(change=None, is_train=True, **changes):
        options = tiny_options(root, **{key: value for key, value in changes.items() if key in SECTIONS})
        if change is not None:
            change(options)
        (root / "options.yml").write_text(yaml.safe_dump(options, sort_keys=False))
        context = {key: value for key, value in changes.items() if key not in SECTIONS}
        problems = find_problems("options.yml", RunContext(is_train, **context))
        return [(p.severity, p.message) for p in problems if "of the published comparison" not in p.message]

    return run


SECTIONS = {"name", "model_type", "scale", "num_gpu", "manual_seed", "network_g", "path", "train", "val", "logger"}
SECTIONS |= {"datasets", "dist_params", "extra"}
