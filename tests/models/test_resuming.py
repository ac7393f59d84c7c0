"""A run that goes on with a changed option file."""

import pytest
import torch
from basicsr.data import build_dataloader, build_dataset

from contrast_arch.errors import InputError
from contrast_arch.models import checkpoints
from contrast_arch.models.optimizers import fit
from tests.conftest import write_pairs
from tests.models.building import build, options, train


def saved_at(tmp_path, iteration, **changes):
    """The rates of a run of some iterations, which is saved."""
    model = build(options(tmp_path, **changes))
    rates = []
    for number in range(1, iteration + 1):
        train(model, number, number)
        rates += model.get_current_learning_rate()
    model.save(0, iteration)
    return rates


def resumed(tmp_path, iteration, model_type="ContrastModel", override=False, **changes):
    """A model as contrast-train resumes it."""
    opt = options(tmp_path, model_type, **changes)
    state = torch.load(checkpoints.state_file(opt, iteration), weights_only=True)
    model = build(opt, seed=1)
    fit(model, state, override)
    model.resume_training(state)
    return model


def cosine(*periods):
    return {
        "type": "CosineAnnealingRestartLR",
        "periods": list(periods),
        "restart_weights": [1] * len(periods),
        "eta_min": 1e-5,
    }


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_a_longer_cosine(tmp_path, model_type):
    """The rates are those of a run that had it from the beginning."""
    saved_at(tmp_path, 4, train={"scheduler": cosine(4), "total_iter": 4})
    model = resumed(tmp_path, 4, model_type, train={"scheduler": cosine(10), "total_iter": 10})
    rates = []
    for number in range(5, 11):
        train(model, number, number)
        rates += model.get_current_learning_rate()
    whole = saved_at(tmp_path / "whole", 10, train={"scheduler": cosine(10), "total_iter": 10})
    assert rates == pytest.approx(whole[4:], rel=1e-9)


def test_another_schedule(tmp_path, log):
    """The one of the file takes over, whatever both call restart_weights."""
    saved_at(tmp_path, 2)
    model = resumed(tmp_path, 2, train={"scheduler": cosine(2, 2, 2), "total_iter": 6})
    assert any("of another schedule; this one takes over at iteration 2, after a rate of 0.001" in line for line in log)
    rates = []
    for number in range(3, 7):
        train(model, number, number)
        rates += model.get_current_learning_rate()
    whole = saved_at(tmp_path / "whole", 6, train={"scheduler": cosine(2, 2, 2), "total_iter": 6})
    assert rates == pytest.approx(whole[2:], rel=1e-9)


def test_what_the_state_overrides_is_in_the_log(tmp_path, log):
    saved_at(tmp_path, 2)
    model = resumed(tmp_path, 2, train={"optim_g": {"type": "Adam", "lr": 5e-4}})
    assert "train: optim_g: lr: the state has 0.001, the file says 0.0005; --override-state takes the file's" in log
    assert model.get_current_learning_rate() == [1e-3]


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_the_values_of_the_file_in_place_of_the_states(tmp_path, log, model_type):
    """The rates are the file's from here on, the averages of gradients the state's."""
    saved_at(tmp_path, 3)
    optim_g = {"type": "Adam", "lr": 4e-4, "betas": [0.8, 0.9]}
    changed = {"optim_g": optim_g, "scheduler": {"type": "MultiStepLR", "milestones": [2, 4], "gamma": 0.5}}
    model = resumed(tmp_path, 3, model_type, override=True, train=changed | {"total_iter": 5})
    assert model.optimizer_g.param_groups[0]["betas"] == (0.8, 0.9)
    assert {float(kept["step"]) for kept in model.optimizer_g.state.values()} == {3}
    assert not any("; --override-state takes" in line for line in log)
    rates = []
    for number in (4, 5):
        train(model, number, number)
        rates += model.get_current_learning_rate()
    assert rates == pytest.approx([2e-4, 1e-4], rel=1e-9)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_another_optimizer_is_refused(tmp_path, name):
    """Under BasicSR's own trainer, which does not look at it before."""
    saved_at(tmp_path, 1)
    with pytest.raises(InputError, match=f"train: optim_g: type: {name}: the training state is of Adam; write"):
        resumed(tmp_path, 1, train={"optim_g": {"type": name, "lr": 1e-3}})


def test_one_metric_more(tmp_path):
    """The best of the others stay, but of one that is now better the other way round."""
    write_pairs(tmp_path, lq=(13, 11))
    both = options(tmp_path)["val"]["metrics"]
    psnr, ssim = both["psnr"], both["ssim"]
    model = build(options(tmp_path, val={"metrics": {"psnr": psnr, "mse": ssim}}))
    earlier = {"better": "higher", "val": 99.0, "iter": 1}
    model.best_metric_results = {"val": {"psnr": dict(earlier), "mse": dict(earlier)}}
    model.save(0, 2)
    model = resumed(tmp_path, 2, val={"metrics": {"psnr": psnr, "ssim": ssim, "mse": ssim | {"better": "lower"}}})
    dataset = model.opt["datasets"]["val"]
    model.validation(build_dataloader(build_dataset(dataset), dataset), 4, None)
    best = model.best_metric_results["val"]
    assert best["psnr"] == earlier
    assert best["ssim"] == {"better": "higher", "val": model.metric_results["ssim"], "iter": 4}
    assert best["mse"] == {"better": "lower", "val": model.metric_results["mse"], "iter": 4}
