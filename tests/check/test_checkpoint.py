"""Checkpoints and training states."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from contrast_arch.check import check_checkpoint, check_network
from contrast_arch.errors import InputError
from tests.conftest import TINY


class Code:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        import os

        return os.mkdir, ("made",)


@pytest.fixture
def weights():
    return {key: torch.ones_like(value, device="cpu") for key, value in check_network(TINY).state_dict().items()}


@pytest.fixture
def state(root, weights):
    """Saves a training state of tiny options, with its checkpoint, in experiments/tiny."""

    def save(iteration, optimizer=torch.optim.Adam, scheduler=None, arguments=None, **content):
        from basicsr.models.lr_scheduler import MultiStepRestartLR

        parameters = [torch.nn.Parameter(weights[name]) for name, _ in check_network(TINY).named_parameters()]
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


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    torch.save({"params": weights, "more": Code()}, "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps({"params": Code()}, protocol=2))
    (tmp_path / "c.pth").write_bytes(pickle.dumps({"params": Code()}))  # of a protocol that torch does not write
    more = "holds more than weights, which could run code on loading, and is refused; save its state_dict alone"
    for file, message in {"a.pth": more, "b.pth": more, "c.pth": "cannot be read; it may be truncated"}.items():
        with pytest.raises(InputError, match=f"checkpoint {file} {message}"):
            check_checkpoint(file, None, "params")
    assert not (tmp_path / "made").exists()
    torch.load("a.pth", weights_only=False)
    assert (tmp_path / "made").exists()


def test_safetensors(check, root, weights):
    save_file(weights, root / "a.safetensors")
    assert check(model_type="ContrastModel", path={"pretrain_network_g": "a.safetensors"}) == []
    (found,) = check(path={"pretrain_network_g": "a.safetensors"})
    assert found[1].endswith("BasicSR's models read .pth files only; 'model_type: ContrastModel' reads this one")
    other = {"model_type": "ContrastModel", "path": {"pretrain_network_g": "a.safetensors"}, "network_g": {"dims": 16}}
    assert (
        "a.safetensors was not saved from this network_g (Contrast): conv_first.weight is (12" in check(**other)[0][1]
    )
    (root / "b.safetensors").write_bytes(b"nothing")
    (found,) = check(model_type="ContrastModel", path={"pretrain_network_g": "b.safetensors"})
    assert "checkpoint b.safetensors cannot be read; it may be truncated" in found[1]


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_not_finite(check, root, weights, is_train, value):
    weights["conv_first.weight"][3, 1] = float(value)
    torch.save({"params": weights}, root / "a.pth")
    found = check(is_train=is_train, path={"pretrain_network_g": "a.pth"})
    assert [message for severity, message in found if severity == "error" and "datasets" not in message] == [
        "checkpoint a.pth holds NaN or infinity in params: conv_first.weight: the training that saved it had diverged; "
        "take an earlier checkpoint"
    ]


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
@pytest.mark.parametrize("key", ["param_ema", "params_ema"])
def test_a_key_that_is_not_in_the_checkpoint(check, root, weights, key, model_type):
    """BasicSR loads params instead."""
    torch.save({"params": weights}, root / "a.pth")
    found = check(model_type=model_type, path={"pretrain_network_g": "a.pth", "param_key_g": key})
    assert found == [("error", f"checkpoint a.pth has no '{key}' but params (path: param_key_g)")]


def test_averaged_weights_of_contrast_model_begin_with_those_of_the_network(check, root, weights):
    torch.save(weights, root / "flat.pth")
    path = {"pretrain_network_g": "flat.pth", "param_key_g": None}
    assert check(model_type="ContrastModel", path=path, train={"ema_decay": 0.9}) == []
    torch.save({"params": weights, "params_ema": weights | {"norm.weight": weights["norm.weight"] / 0}}, root / "a.pth")
    (found,) = check(model_type="ContrastModel", path={"pretrain_network_g": "a.pth"}, train={"ema_decay": 0.9})
    assert "a.pth holds NaN or infinity in params_ema: norm.weight" in found[1]


def test_averaged_weights_need_a_key(check, root, weights):
    """BasicSR loads them from params_ema, or params, whatever param_key_g is."""
    torch.save(weights, root / "flat.pth")
    keys = {"path": {"pretrain_network_g": "flat.pth", "param_key_g": None}}
    assert check(**keys) == []
    (found,) = check(**keys, train={"ema_decay": 0.9})
    assert found[1].startswith("checkpoint flat.pth has no 'params_ema' and no 'params', with which BasicSR's models")


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_a_run_that_began_from_weights_without_a_key(check, root, weights, state, model_type):
    torch.save(weights, root / "flat.pth")
    state(2)
    path = {"pretrain_network_g": "flat.pth", "param_key_g": None}
    assert check(auto_resume=True, model_type=model_type, path=path, train={"ema_decay": 0.5}) == []
    path["ignore_resume_networks"] = ["network_g"]
    assert check(auto_resume=True, model_type=model_type, path=path) == []


def test_a_checkpoint_of_the_experiment_that_is_moved_aside(check, state):
    state(2)
    path = {"pretrain_network_g": "experiments/tiny/models/net_g_2.pth"}
    (found,) = check(path=path)
    assert found[1].startswith("path: pretrain_network_g: experiments/tiny/models/net_g_2.pth lies in /")
    assert check(path=path, name="other") == check(path=path, auto_resume=True) == []


COSINE = {"type": "CosineAnnealingRestartLR", "restart_weights": [1], "eta_min": 0}


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
@pytest.mark.parametrize(
    "override, counts", [(False, "; --override-state takes the file's"), (True, ", which is taken (--override-state)")]
)
def test_values_that_the_state_overrides_are_named(check, state, model_type, override, counts):
    state(2, arguments={"weight_decay": 0.1}, data={"gt_size": 64, "batch_size_per_gpu": 2})
    optim_g = {"type": "Adam", "lr": 5e-4, "betas": [0.9, 0.99]}
    scheduler = {"type": "MultiStepLR", "milestones": [3, 3, 2], "gamma": 0.1}
    changed = {"model_type": model_type, "train": {"optim_g": optim_g, "scheduler": scheduler}}
    found = check(auto_resume=True, override_state=override, **changed)
    assert sorted(found) == [
        ("warning", "datasets: train: gt_size: the state has 64, the file says 32, which is taken"),
        ("warning", f"train: optim_g: betas: the state has [0.9, 0.999], the file says [0.9, 0.99]{counts}"),
        ("warning", f"train: optim_g: lr: the state has 0.001, the file says 0.0005{counts}"),
        ("warning", f"train: optim_g: weight_decay: the state has 0.1, the file says 0{counts}"),
        ("warning", f"train: scheduler: gamma: the state has 0.5, the file says 0.1{counts}"),
        ("warning", f"train: scheduler: milestones: the state has [3], the file says [2, 3, 3]{counts}"),
    ]
    assert check(model_type=model_type, train={"optim_g": optim_g}) == []


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_a_state_without_what_the_files_values_need(check, state, model_type):
    """Without the largest averages, Adam would fail in the first iteration; without --override-state it goes on."""
    state(2)
    changed = {"model_type": model_type, "train": {"optim_g": {"type": "Adam", "lr": 1e-3, "amsgrad": True}}}
    (found,) = check(auto_resume=True, override_state=True, **changed)
    assert found[0] == "error"
    assert found[1].startswith("--override-state: with train: optim_g of the option file, Adam needs averages that the")
    counts = "the state has False, the file says True; --override-state takes the file's"
    assert check(auto_resume=True, **changed) == [("warning", f"train: optim_g: amsgrad: {counts}")]


def test_the_state_of_a_model_with_optimizers_of_its_own(check, state, root):
    def change(options):
        options |= {"model_type": "SRGANModel", "network_d": {"type": "UNetDiscriminatorSN"}}
        options["train"] |= {"optim_d": {"type": "Adam", "lr": 1e-4}, "net_d_iters": 1}

    state(2)
    torch.save({"params": {}}, root / "experiments" / "tiny" / "models" / "net_d_2.pth")
    assert check(change, auto_resume=True) == []
    text = "--override-state: expected a model that makes its optimizer as SRModel does, and SRGANModel does not"
    assert check(change, auto_resume=True, override_state=True) == [("error", f"{text}; leave it out")]


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
@pytest.mark.parametrize("saved, periods, named", [([3], [4], []), ([4], [2, 2], ["periods", "restart_weights"])])
def test_a_cosine_counts_where_that_of_the_state_ends(check, state, saved, periods, named, model_type):
    from basicsr.models.lr_scheduler import CosineAnnealingRestartLR

    state(2, scheduler=lambda made: CosineAnnealingRestartLR(made, saved))
    scheduler = COSINE | {"periods": periods, "restart_weights": [1] * len(periods)}
    train = {"scheduler": scheduler, "total_iter": 5}
    found = check(auto_resume=True, model_type=model_type, train=train, logger={"save_checkpoint_freq": 5})
    assert sorted(message.split(": ")[2] for _, message in found) == named


@pytest.mark.parametrize(
    "model_type, saved, arguments, recorded, name",
    [
        ("ContrastModel", "Adam", {}, {}, "SGD"),
        ("ContrastModel", "Adam", {}, {}, "NAdam"),
        ("ContrastModel", "Adam", {}, {}, "Adamax"),
        ("ContrastModel", "Adam", {}, {}, "AdamW"),
        ("ContrastModel", "SGD", {"momentum": 0.9}, {}, "Adam"),
        ("SRModel", "AdamW", {}, {}, "Adam"),
        ("ContrastModel", "Adam", {}, {"optimizer_types": ["Adam"]}, "RAdam"),
    ],
)
def test_a_state_of_another_optimizer(check, state, model_type, saved, arguments, recorded, name):
    state(2, optimizer=getattr(torch.optim, saved), arguments=arguments, **recorded)
    (found,) = check(auto_resume=True, model_type=model_type, train={"optim_g": {"type": name, "lr": 1e-3}})
    other = "Adam" if recorded else "another optimizer"
    assert found[0] == "error"
    assert found[1].startswith(f"train: optim_g: type: {name}: the training state is of {other}, and no optimizer")


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "NAdam", "RAdam", "RMSprop", "Adafactor"])
def test_a_state_of_the_same_optimizer(check, state, name):
    arguments = {"momentum": 0.9} if name == "SGD" else {"weight_decay": 0.1}
    state(2, optimizer=getattr(torch.optim, name), arguments=arguments)
    optim_g = {"type": name, "lr": 1e-3, **arguments}
    assert check(auto_resume=True, model_type="ContrastModel", train={"optim_g": optim_g}) == []


def test_a_state_of_another_network(check, root, weights):
    state = {
        "iter": 2,
        "epoch": 0,
        "schedulers": [],
        "optimizers": [{"param_groups": [{"params": [0, 1]}], "state": {}}],
    }
    torch.save(state, root / "2.state")
    models = root / "experiments" / "tiny" / "models"
    models.mkdir(parents=True, exist_ok=True)
    torch.save({"params": {}}, models / "net_g_2.pth")
    own = sum(1 for _ in check_network(TINY).parameters())
    (found,) = check(path={"resume_state": "2.state"})
    assert found == ("error", f"training state 2.state is of a network of 2 weights; this network_g has {own}")
