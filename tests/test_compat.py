"""Patches are put on where they are needed, and nowhere else."""

import importlib.util
import sys
import types

import pytest
import torch

from contrast_arch import compat

NAME = "torchvision.transforms.functional_tensor"


def test_functional_tensor_is_left_alone_where_it_exists(monkeypatch):
    own = types.ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, own)
    compat._mend_functional_tensor()
    assert sys.modules[NAME] is own


def test_functional_tensor_is_made_where_it_is_gone(monkeypatch):
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    compat._mend_functional_tensor()
    grey = sys.modules[NAME].rgb_to_grayscale(torch.ones(3, 2, 2))
    torch.testing.assert_close(grey, torch.full((1, 2, 2), 0.9999), rtol=0, atol=1e-3)
    monkeypatch.delitem(sys.modules, NAME)


def unmended(opt):
    return torch.cuda.current_device()


def mended(opt):
    return torch.cuda.current_device() if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("function, stays", [(unmended, False), (mended, True)])
def test_load_resume_state_is_replaced_only_where_it_needs_a_gpu(function, stays):
    train = types.SimpleNamespace(load_resume_state=function)
    compat._mend_load_resume_state(train)
    assert (train.load_resume_state is function) == stays


def test_newest_state_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    states = tmp_path / "experiments" / "run" / "training_states"
    opt = {"auto_resume": True, "name": "run", "path": {"resume_state": "other.state"}}
    assert compat.resume_state_path(opt) is None
    states.mkdir(parents=True)
    assert compat.resume_state_path(opt) is None
    for name in ("900.state", "1000.state", "last.state", "2000.state.tmp"):
        (states / name).touch()
    assert compat.resume_state_path(opt) == "experiments/run/training_states/1000.state"
    assert compat.resume_state_path({**opt, "auto_resume": False}) == "other.state"
