"""Patches are put on where they are needed, and nowhere else."""

import importlib
import sys
import types

import pytest
import torch
import torchvision

from contrast_arch import compat


@pytest.mark.parametrize("there", ["a stand-in", None])
def test_functional_tensor_is_given_where_it_is_gone(there, monkeypatch):
    monkeypatch.delitem(sys.modules, compat.FUNCTIONAL_TENSOR, raising=False)
    if there:
        monkeypatch.setitem(sys.modules, compat.FUNCTIONAL_TENSOR, types.ModuleType("functional_tensor"))
        sys.modules[compat.FUNCTIONAL_TENSOR].rgb_to_grayscale = None
    compat._give_functional_tensor(torchvision.transforms)
    grey = importlib.import_module(compat.FUNCTIONAL_TENSOR).rgb_to_grayscale
    if there:
        assert grey is None
    else:
        torch.testing.assert_close(grey(torch.ones(3, 2, 2)), torch.full((1, 2, 2), 0.9999), rtol=0, atol=1e-3)


def unmended(opt):
    return torch.cuda.current_device()


def test_the_newest_state_is_loaded_without_a_gpu(tmp_path, monkeypatch):
    from basicsr import train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "load_resume_state", compat._without_gpu(train.load_resume_state))
    opt = {"auto_resume": True, "name": "run", "model_type": "SRModel", "path": {"models": "models"}}
    assert train.load_resume_state(opt) is None
    states = tmp_path / "experiments" / "run" / "training_states"
    states.mkdir(parents=True)
    for iteration in (900, 1000):
        torch.save({"iter": iteration, "exp_avg": torch.full((2,), float(iteration))}, states / f"{iteration}.state")
    state = train.load_resume_state(opt)
    assert state["iter"] == 1000 and state["exp_avg"].tolist() == [1000, 1000]
    assert opt["path"]["resume_state"] == "experiments/run/training_states/1000.state"
    opt = {**opt, "auto_resume": False, "path": {**opt["path"], "resume_state": str(states / "900.state")}}
    assert train.load_resume_state(opt)["iter"] == 900


def test_trainers_are_mended_when_they_read_their_options(monkeypatch):
    """``__main__`` as it is when BasicSR's trainer runs as a script that imports contrast_arch last, and older ones."""
    options = types.ModuleType("options")
    options.parse_options = lambda: "parsed"
    script, older = types.ModuleType("__main__"), types.ModuleType("basicsr.train")
    script.parse_options, script.load_resume_state = options.parse_options, unmended
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.setitem(sys.modules, "basicsr.train", older)
    compat._mend_options(options)
    assert script.load_resume_state is unmended
    assert script.parse_options() == "parsed"
    assert script.load_resume_state.__wrapped__ is unmended and not hasattr(older, "load_resume_state")


def test_nothing_else_of_a_trainer_is_replaced():
    from basicsr import train

    names = ("create_train_val_dataloader", "init_tb_loggers", "build_model", "check_resume", "copy_opt_file")
    for name in names:
        assert getattr(train, name).__globals__["__name__"].startswith("basicsr")
    from basicsr.utils import options

    assert options.init_dist.__globals__["__name__"] == "basicsr.utils.dist_util"
