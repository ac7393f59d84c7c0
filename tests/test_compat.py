"""Patches are put on where they are needed, and nowhere else."""

import importlib
import sys
import types

import pytest
import torch
import torchvision

from contrast_arch import compat


@pytest.fixture
def functional_tensor_gone(monkeypatch):
    monkeypatch.delitem(sys.modules, compat.FUNCTIONAL_TENSOR, raising=False)
    yield
    sys.modules.pop(compat.FUNCTIONAL_TENSOR, None)


def test_functional_tensor_is_left_alone_where_it_exists(functional_tensor_gone, tmp_path, monkeypatch):
    (tmp_path / "functional_tensor.py").write_text("own = True")
    monkeypatch.setattr(torchvision.transforms, "__path__", [*torchvision.transforms.__path__, str(tmp_path)])
    assert importlib.import_module(compat.FUNCTIONAL_TENSOR).own


def test_functional_tensor_is_made_where_it_is_gone(functional_tensor_gone):
    grey = importlib.import_module(compat.FUNCTIONAL_TENSOR).rgb_to_grayscale(torch.ones(3, 2, 2))
    torch.testing.assert_close(grey, torch.full((1, 2, 2), 0.9999), rtol=0, atol=1e-3)
    compat.mend_basicsr()
    assert sum("FunctionalTensor" in type(finder).__name__ for finder in sys.meta_path) == 1


def unmended(opt):
    return torch.cuda.current_device()


def mended(opt):
    return torch.cuda.current_device() if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("function, stays", [(unmended, False), (mended, True), (print, True)])
def test_load_resume_state_is_replaced_only_where_it_needs_a_gpu(function, stays):
    train = types.SimpleNamespace(load_resume_state=function)
    compat._mend_load_resume_state(train)
    assert (train.load_resume_state is function) == stays
    once = train.load_resume_state
    compat._mend_load_resume_state(train)
    assert train.load_resume_state is once


def test_the_newest_state_is_loaded_without_a_gpu(tmp_path, monkeypatch):
    from basicsr import train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
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


@pytest.mark.parametrize("key", [None, "params_ema", "weights", "params"])
def test_a_run_finds_its_own_weights(key):
    """Whatever the checkpoint was with which it began; a network that is to go on from another one keeps its key."""
    from basicsr import train

    paths = {"models": "m", "resume_state": "4.state", "pretrain_network_g": "a.pth", "param_key_g": key}
    opt = {"network_g": {}, "path": dict(paths)}
    train.check_resume(opt, 4)
    assert opt["path"] == paths | {"pretrain_network_g": "m/net_g_4.pth", "param_key_g": "params"}
    for change in ({"resume_state": None}, {"ignore_resume_networks": "network_g"}):
        opt = {"network_g": {}, "path": paths | change}
        train.check_resume(opt, 4)
        assert opt["path"] == paths | change


def test_a_script_that_has_read_the_options_is_mended(monkeypatch):
    """``__main__`` as it is when BasicSR's trainer runs as a script that imports contrast_arch last."""
    options = types.ModuleType("options")
    options.parse_options = lambda: "parsed"
    script = types.ModuleType("__main__")
    script.parse_options, script.load_resume_state = options.parse_options, unmended
    monkeypatch.setitem(sys.modules, "__main__", script)
    compat._mend_scripts(options)
    assert script.load_resume_state is unmended
    assert script.parse_options() == "parsed"
    assert script.load_resume_state.__wrapped__ is unmended


def test_older_trainers_are_left_alone():
    """BasicSR 1.3.3.4 has no init_tb_loggers."""
    train = types.SimpleNamespace(build_model=unmended, load_resume_state=mended)
    compat._mend_train(train)
    assert vars(train) == {"build_model": unmended, "load_resume_state": mended}
