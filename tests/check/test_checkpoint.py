"""Checkpoints and training states."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from contrast_arch.check import build_on_meta
from contrast_arch.errors import InputError
from contrast_arch.weights.files import read
from tests.conftest import TINY

CONTRAST_MODEL, START = {"model_type": "ContrastModel"}, "path.pretrain_network_g"
OPTIMIZER = "train.optim_g"


class Code:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        import os

        return os.mkdir, ("made",)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    torch.save({"params": weights, "more": Code()}, "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps({"params": Code()}, protocol=2))
    (tmp_path / "c.pth").write_bytes(pickle.dumps({"params": Code()}))  # of a protocol that torch does not write
    more = "holds more than weights, which could run code on loading, and is refused; save its state_dict alone"
    for file, message in {"a.pth": more, "b.pth": more, "c.pth": "cannot be read; it may be truncated"}.items():
        with pytest.raises(InputError, match=f"checkpoint {file} {message}"):
            read(file)
    assert not (tmp_path / "made").exists()
    torch.load("a.pth", weights_only=False)
    assert (tmp_path / "made").exists()


def test_safetensors(check, root, weights):
    save_file(weights, root / "a.safetensors")
    assert check({START: "a.safetensors"} | CONTRAST_MODEL) == []
    (found,) = check({START: "a.safetensors"})
    assert found.endswith("BasicSR's models read .pth files only; 'model_type: ContrastModel' reads this one")
    (found,) = check({START: "a.safetensors", "network_g.dims": 16} | CONTRAST_MODEL)
    assert "a.safetensors was not saved from this network_g (Contrast): conv_first.weight is (12" in found
    (root / "b.safetensors").write_bytes(b"nothing")
    (found,) = check({START: "b.safetensors"} | CONTRAST_MODEL)
    assert "checkpoint b.safetensors cannot be read; it may be truncated" in found


@pytest.mark.parametrize("is_train, value", [(True, "nan"), (False, "inf")])
def test_weights_that_are_not_finite(check, root, weights, is_train, value):
    weights["conv_first.weight"][3, 1] = float(value)
    torch.save({"params": weights}, root / "a.pth")
    assert check({START: "a.pth"}, is_train, only=("error",)) == [
        "error: checkpoint a.pth holds NaN or infinity in params: conv_first.weight: the training that saved it had "
        "diverged; take an earlier checkpoint"
    ]


@pytest.mark.parametrize("model_type, key", [("SRModel", "param_ema"), ("ContrastModel", "params_ema")])
def test_a_key_that_is_not_in_the_checkpoint(check, root, weights, key, model_type):
    """BasicSR loads params instead."""
    torch.save({"params": weights}, root / "a.pth")
    found = check({"model_type": model_type, START: "a.pth", "path.param_key_g": key})
    assert found == [f"error: checkpoint a.pth has no '{key}' but params (path: param_key_g)"]


def test_what_averaged_weights_begin_with(check, root, weights):
    """ContrastModel's with those of the network; BasicSR's with params_ema, or params, whatever param_key_g is."""
    torch.save(weights, root / "flat.pth")
    flat, ema = {START: "flat.pth", "path.param_key_g": None}, {"train.ema_decay": 0.9}
    assert check(flat | ema | CONTRAST_MODEL) == check(flat) == []
    (found,) = check(flat | ema)
    assert found.startswith(
        "error: checkpoint flat.pth has no 'params_ema' and no 'params', with which BasicSR's model"
    )
    torch.save({"params": weights, "params_ema": weights | {"norm.weight": weights["norm.weight"] / 0}}, root / "a.pth")
    (found,) = check({START: "a.pth"} | ema | CONTRAST_MODEL)
    assert "a.pth holds NaN or infinity in params_ema: norm.weight" in found


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_a_run_that_began_from_weights_without_a_key(check, root, weights, state, model_type):
    torch.save(weights, root / "flat.pth")
    state(2)
    edits = {"model_type": model_type, START: "flat.pth", "path.param_key_g": None}
    assert check(edits | {"train.ema_decay": 0.5}, auto_resume=True) == []
    assert check(edits | {"path.ignore_resume_networks": ["network_g"]}, auto_resume=True) == []


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
@pytest.mark.parametrize(
    "override, counts", [(False, "; --override-state takes the file's"), (True, ", which is taken (--override-state)")]
)
def test_values_that_the_state_overrides_are_named(check, state, model_type, override, counts):
    state(2, arguments={"weight_decay": 0.1})
    optim_g = {"type": "Adam", "lr": 5e-4, "betas": [0.9, 0.99]}
    scheduler = {"type": "MultiStepLR", "milestones": [3, 3, 2], "gamma": 0.1}
    changed = {"model_type": model_type, OPTIMIZER: optim_g, "train.scheduler": scheduler}
    found = check(changed, auto_resume=True, override_state=override)
    assert sorted(found) == [
        f"warning: train: optim_g: betas: the state has [0.9, 0.999], the file says [0.9, 0.99]{counts}",
        f"warning: train: optim_g: lr: the state has 0.001, the file says 0.0005{counts}",
        f"warning: train: optim_g: weight_decay: the state has 0.1, the file says 0{counts}",
        f"warning: train: scheduler: gamma: the state has 0.5, the file says 0.1{counts}",
        f"warning: train: scheduler: milestones: the state has [3], the file says [2, 3, 3]{counts}",
    ]
    assert check({"model_type": model_type, OPTIMIZER: optim_g}) == []


def test_the_state_of_a_model_with_optimizers_of_its_own(check, root, weights, state):
    edits = {"model_type": "SRGANModel", "network_d": {"type": "UNetDiscriminatorSN"}, "train.net_d_iters": 1}
    edits["train.optim_d"] = {"type": "Adam", "lr": 1e-4}
    state(2)
    (found,) = check(edits, auto_resume=True)
    assert "error: " in found and f"checkpoint {root}/experiments/tiny/models/net_d_2.pth does not exist" in found
    torch.save({"params": weights}, root / "experiments" / "tiny" / "models" / "net_d_2.pth")
    assert check(edits, auto_resume=True) == []
    text = "error: --override-state: SRGANModel makes optimizers of its own; leave it out"
    assert check(edits, auto_resume=True, override_state=True) == [text]


def test_weights_in_the_folder_of_an_earlier_run(check, root, state):
    """BasicSR moves the folder aside before it reads them."""
    state(2)
    file = "experiments/tiny/models/net_g_2.pth"
    (found,) = check({START: file})
    where = f"error: path: pretrain_network_g: {file} lies in {root}/experiments/tiny"
    assert found.startswith(f"{where}, which BasicSR moves aside before it reads there; write another name")
    assert check({START: file, "name": "other"}) == check({START: file}, auto_resume=True) == []
    assert check({START: file}, is_train=False, only=("error",)) == []


@pytest.mark.parametrize("saved, periods, named", [([3], [4], ["type"]), ([4], [2, 2], ["periods", "restart_weights"])])
def test_a_cosine_counts_where_that_of_the_state_ends(check, state, saved, periods, named):
    from basicsr.models.lr_scheduler import CosineAnnealingRestartLR

    state(2, scheduler=lambda made: CosineAnnealingRestartLR(made, saved))
    scheduler = {"type": "CosineAnnealingRestartLR", "periods": periods, "restart_weights": [1] * len(periods)}
    edits = {"train.scheduler": scheduler, "train.total_iter": 5, "logger.save_checkpoint_freq": 5}
    assert sorted(text.split(": ")[3] for text in check(edits, auto_resume=True)) == named


@pytest.mark.parametrize(
    "model_type, saved, arguments, recorded, name",
    [
        *(("ContrastModel", "Adam", {}, {}, name) for name in ("SGD", "NAdam", "Adamax")),
        ("ContrastModel", "SGD", {"momentum": 0.9}, {}, "Adam"),
        ("SRModel", "AdamW", {}, {"optimizer_types": ["AdamW"]}, "Adam"),
        ("ContrastModel", "Adam", {}, {"optimizer_types": ["Adam"]}, "RAdam"),
    ],
)
def test_a_state_of_another_optimizer(check, state, model_type, saved, arguments, recorded, name):
    state(2, optimizer=getattr(torch.optim, saved), arguments=arguments, **recorded)
    (found,) = check({"model_type": model_type, OPTIMIZER: {"type": name, "lr": 1e-3}}, auto_resume=True)
    other = saved if recorded else "another optimizer"
    assert found.startswith(f"error: train: optim_g: type: {name}: the training state is of {other}; write its type")


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "NAdam", "RAdam", "RMSprop", "Adafactor"])
def test_a_state_of_the_same_optimizer(check, state, name):
    arguments = {"momentum": 0.9} if name == "SGD" else {"weight_decay": 0.1}
    state(2, optimizer=getattr(torch.optim, name), arguments=arguments)
    assert check(CONTRAST_MODEL | {OPTIMIZER: {"type": name, "lr": 1e-3, **arguments}}, auto_resume=True) == []


def test_a_state_of_another_network(check, root):
    optimizer = {"param_groups": [{"params": [0, 1]}], "state": {}}
    torch.save({"iter": 2, "epoch": 0, "schedulers": [], "optimizers": [optimizer]}, root / "2.state")
    own = sum(1 for _ in build_on_meta(TINY).parameters())
    found = check({"path.resume_state": "2.state", "path.ignore_resume_networks": "network_g"})
    assert found == [f"error: training state 2.state is of a network of 2 weights; this network_g has {own}"]


def test_a_newest_state_that_is_damaged(check, root, state):
    for iteration in (2, 3):
        state(iteration)
    file = root / "experiments" / "tiny" / "training_states" / "3.state"
    file.write_bytes(file.read_bytes()[:1000])
    (found,) = check(auto_resume=True)
    assert found.startswith(f"warning: passed over: training state {file} cannot be read")
