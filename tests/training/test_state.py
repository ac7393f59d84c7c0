"""Which state a run goes on from: the newest that is whole, of this version, an earlier one or BasicSR."""

import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from contrast_arch.errors import InputError
from contrast_arch.models import checkpoints
from contrast_arch.models.checkpoints import TrainState, find_state, options_digest
from tests.models.building import build, empty_run, equal, halve, save, train, weights
from tests.training.building import content, cut, make, run_options


@pytest.fixture
def opt(tmp_path):
    return empty_run(tmp_path)


@pytest.mark.parametrize("how", ["state halved", "state empty", "network halved", "network missing", "other content"])
def test_a_broken_state_is_passed_over(opt, how):
    save(opt, 5, 10)
    state, network = checkpoints.state_file(opt, 10), checkpoints.network_file(opt, 10)
    {
        "state halved": lambda: halve(state),
        "state empty": lambda: state.write_bytes(b""),
        "network halved": lambda: halve(network),
        "network missing": network.unlink,
        "other content": lambda: torch.save([1], state),
    }[how]()
    path, found, passed_over = find_state(opt)
    assert path == checkpoints.state_file(opt, 5) and found.iter == 5
    assert len(passed_over) == 1 and str(state if "network" not in how else network) in passed_over[0]


def test_a_state_whose_weights_are_not_finite_is_passed_over(opt):
    save(opt, 5, 10)
    torch.save({"params": {"a": torch.tensor([1.0, float("inf")])}}, checkpoints.network_file(opt, 10))
    path, _, passed_over = find_state(opt)
    assert path == checkpoints.state_file(opt, 5)
    assert len(passed_over) == 1 and "net_g_10.pth holds NaN or infinity in params: a: the training" in passed_over[0]


def test_the_newest_is_the_largest_number(opt):
    save(opt, 900, 1000)
    Path(opt["path"]["training_states"], "last.state").touch()
    assert find_state(opt)[0].name == "1000.state"


def test_nothing_to_resume(opt):
    assert find_state(opt) == (None, None, [])
    save(opt, 5)
    halve(checkpoints.state_file(opt, 5))
    with pytest.raises(InputError, match=r"no training state in .*states can be resumed:\n.*5\.state.*\nmove"):
        find_state(opt)


def test_a_state_that_is_named_must_be_good(opt):
    save(opt, 5, 10)
    opt["auto_resume"], opt["path"]["resume_state"] = False, str(checkpoints.state_file(opt, 5))
    assert find_state(opt)[1].iter == 5
    halve(checkpoints.state_file(opt, 5))
    with pytest.raises(InputError, match=r"5\.state cannot be read; it may be truncated"):
        find_state(opt)
    opt["path"]["resume_state"] = None
    assert find_state(opt) == (None, None, [])


def flip(path, tensor):
    """Flip one bit of a number of a tensor, where it lies in the file."""
    raw, whole = tensor.contiguous().numpy().tobytes(), bytearray(path.read_bytes())
    at = whole.index(raw)
    whole[at + len(raw) // 2] ^= 1
    path.write_bytes(whole)


@pytest.mark.parametrize("where", ["optimizer", "weights"])
def test_a_flipped_bit_is_found(tmp_path, log, where):
    """A file that loads, with finite numbers: the state before it is taken, and gives the weights of a whole run."""
    changes = {"logger": {"save_checkpoint_freq": 2}, "val": {"val_freq": 100}}
    make(tmp_path / "whole", **changes).run()
    cut(make(tmp_path, **changes), 5)
    opt = run_options(tmp_path, **changes)
    state, network = checkpoints.state_file(opt, 5), checkpoints.network_file(opt, 5)
    if where == "optimizer":
        flip(state, torch.load(state, weights_only=True)["optimizers"][0]["state"][0]["exp_avg"])
        assert torch.load(state, weights_only=True)["optimizers"][0]["state"][0]["exp_avg"].isfinite().all()
        expected = r"5\.state is damaged: optimizers\.0\.state\.0\.exp_avg is not what was saved"
    else:
        flip(network, torch.load(network, weights_only=True)["params"]["0.weight"])
        expected = r"net_g_5\.pth is damaged: params\.0\.weight is not what was saved"
    path, _, (passed_over,) = find_state(opt)
    assert path.name == "4.state" and re.search(expected, passed_over)
    make(tmp_path, **changes).run()
    assert any(line.startswith("Passed over: ") and re.search(expected, line) for line in log)
    assert equal(content(tmp_path / "whole"), content(tmp_path))


def test_a_changed_number_is_found(tmp_path):
    """Not of a tensor: the rate of the optimizer, the checksum of a checkpoint."""
    model = {"optimizers": [{"param_groups": [{"lr": 1e-3}]}], "schedulers": []}
    state = TrainState(3, 1, model, position=8, checksums={"net_g_3.pth": {"others": "ab"}})
    torch.save(state.content(), tmp_path / "3.state")
    assert TrainState.read(tmp_path / "3.state").position == 8
    for change in (
        lambda state: state["optimizers"][0]["param_groups"][0].update(lr=2e-3),
        lambda state: state["checksums"]["net_g_3.pth"].update(others="cd"),
    ):
        changed = torch.load(tmp_path / "3.state", weights_only=True)
        change(changed)
        torch.save(changed, tmp_path / "changed.state")
        with pytest.raises(InputError, match=r"changed\.state is damaged: others is not what was saved \(checksum\)"):
            TrainState.read(tmp_path / "changed.state")


def test_it_is_read_once(tmp_path, monkeypatch):
    """By the checks before a run, and by the run."""
    cut(make(tmp_path), 3)
    opt, read, load = run_options(tmp_path), [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **more: read.append(Path(path).name) or load(path, **more))
    first = find_state(opt)
    assert find_state(opt)[1] is first[1] and read == ["3.state", "net_g_3.pth"]


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
@pytest.mark.parametrize("saved_by", ["BasicSR", "an earlier version"])
def test_states_of_others_are_resumed(tmp_path, log, model_type, saved_by):
    """Weights, the optimizer's averages and rates go on; BasicSR's epoch starts over, an earlier version's goes on."""
    opt = run_options(tmp_path)
    for folder in ("models", "training_states"):
        Path(opt["path"][folder]).mkdir(parents=True)
    model = build(deepcopy(opt))
    train(model, 1, 4)
    model.save(1, 4)
    if saved_by != "BasicSR":
        path = checkpoints.state_file(opt, 4)
        earlier = {"optimizer_types": ["Adam"], "position": 4, "data": {"gt_size": 32}, "scaler": {}}
        earlier |= {"nonfinite": {"total": 0, "in_a_row": 0}, "random_states": [], "best_metric_results": {}}
        torch.save(torch.load(path, weights_only=True) | earlier | {"validation_due": False}, path)
    trainer = make(tmp_path, model_type)
    assert "Resuming training from epoch: 1, iter: 4." in log
    assert (trainer.now.iter, trainer.now.epoch, trainer.now.position) == (4, 1, 0 if saved_by == "BasicSR" else 4)
    assert equal(weights(model.net_g), weights(trainer.model.net_g))
    assert str(model.optimizer_g.state_dict()) == str(trainer.model.optimizer_g.state_dict())
    log.clear()
    trainer.run()
    losses = [line for line in log if "l_pix" in line]
    assert [int(re.search(r"iter: +(\d+)", line)[1]) for line in losses] == [5, 6, 7, 8]
    epochs = [int(re.search(r"epoch: +(\d+)", line)[1]) for line in losses]
    assert epochs == ([1, 1, 1, 1] if saved_by == "BasicSR" else [1, 1, 2, 2])


def test_a_state_of_the_loop_is_one_of_basicsr(tmp_path):
    """SRModel goes on from it under BasicSR's trainer."""
    cut(make(tmp_path), 5)
    opt = run_options(tmp_path)
    model = build(deepcopy(opt))
    model.resume_training(torch.load(checkpoints.state_file(opt, 5), weights_only=True))
    assert {float(kept["step"]) for kept in model.optimizer_g.state.values()} == {5}


def test_the_digest_is_of_the_file(tmp_path):
    opt = run_options(tmp_path)
    other = run_options(tmp_path / "other") | {"auto_resume": False, "datasets": opt["datasets"]}
    assert options_digest(opt) == options_digest(other)
    assert options_digest(opt) != options_digest(opt | {"scale": 2})
