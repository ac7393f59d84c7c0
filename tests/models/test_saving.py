"""Files that ContrastModel saves and reads under any trainer, and its validation."""

import json
from pathlib import Path

import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from safetensors import safe_open

import contrast_arch
from contrast_arch.errors import InputError, TrainingStopped
from contrast_arch.models import checkpoints
from tests.conftest import write_pairs
from tests.models.building import build, equal, options, train, weights


def files(opt, folder="models"):
    return sorted(path.name for path in Path(opt["path"][folder]).iterdir() if path.is_file())


def test_a_resumed_model_is_the_same(tmp_path):
    """Under BasicSR's trainer: weights, averaged weights, optimizer, schedule, counts and best metrics."""
    from basicsr import train as trainer

    opt = options(tmp_path, train={"ema_decay": 0.9})
    model = build(opt)
    train(model, 1, 3)
    model.nonfinite = {"total": 4, "in_a_row": 2}
    model.best_metric_results = {"val": {"psnr": {"better": "higher", "val": 30.5, "iter": 2}}}
    model.save(3, 3)
    train(model, 4, 5)

    resumed = options(tmp_path, train={"ema_decay": 0.9})
    resumed["path"]["resume_state"] = str(checkpoints.state_file(resumed, 3))
    state = torch.load(resumed["path"]["resume_state"], weights_only=True)
    trainer.check_resume(resumed, 3)
    again = build(resumed, seed=1)
    again.resume_training(state)
    assert again.nonfinite == {"total": 4, "in_a_row": 2}
    assert again.best_metric_results["val"]["psnr"] == {"better": "higher", "val": 30.5, "iter": 2}
    train(again, 4, 5)
    assert equal(weights(model.net_g), weights(again.net_g))
    assert equal(weights(model.net_g_ema), weights(again.net_g_ema))
    assert again.get_current_learning_rate() == model.get_current_learning_rate() == [5e-4]


@pytest.mark.parametrize("ema_decay", [0, 0.5])
def test_a_run_that_began_from_weights_without_a_key(tmp_path, ema_decay):
    """As BasicSR's trainer resumes it, which keeps the key of the file with which the run began."""
    from basicsr import train as trainer

    torch.save(weights(build(options(tmp_path), 7).net_g), tmp_path / "flat.pth")
    path = {"pretrain_network_g": str(tmp_path / "flat.pth"), "param_key_g": None}
    model = build(options(tmp_path, path=path, train={"ema_decay": ema_decay}))
    train(model, 1, 2)
    model.save(0, 2)
    opt = options(tmp_path, path=path, train={"ema_decay": ema_decay})
    opt["path"]["resume_state"] = str(checkpoints.state_file(opt, 2))
    trainer.check_resume(opt, 2)
    again = build(opt, seed=1)
    assert equal(weights(model.net_g), weights(again.net_g))
    assert not ema_decay or equal(weights(model.net_g_ema), weights(again.net_g_ema))


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch, log):
    """But the end of it, where the weights would be lost."""
    monkeypatch.setattr(checkpoints.time, "sleep", lambda seconds: None)
    opt = options(tmp_path)
    model = build(opt)
    model.save(0, 1)

    def half(content, path, save=torch.save):
        save(content, path)
        path.write_bytes(path.read_bytes()[:1000])
        raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        model.save(0, 2)
        assert files(opt) == ["net_g_1.pth"] and files(opt, "training_states") == ["1.state"]
        assert "Nothing was saved at iteration 2" in log[-1]
        with pytest.raises(TrainingStopped, match=r"net_g_latest\.pth could not be written"):
            model.save(-1, -1)
    model.save(0, 3)
    assert files(opt, "training_states") == ["1.state", "3.state"]


def test_it_says_once_what_only_contrast_train_has(tmp_path, log):
    build(options(tmp_path) | {"trainer": "contrast-train"})
    assert not any("contrast-train" in line for line in log)
    train(build(options(tmp_path)), 1, 2)
    (line,) = [line for line in log if "contrast-train" in line]
    assert "a resumed run starts its epoch over" in line


def test_safetensors_beside_pth(tmp_path):
    opt = options(tmp_path, train={"ema_decay": 0.5}, logger={"save_format": "safetensors", "keep_last": 1})
    model = build(opt)
    train(model, 1, 2)
    model.save(0, 1)
    model.save(0, 2)
    assert files(opt) == ["net_g_2.pth", "net_g_2.safetensors"] and files(opt, "training_states") == ["2.state"]
    path = Path(opt["path"]["models"], "net_g_2.safetensors")
    net = contrast_arch.load_pretrained(path)
    assert equal(weights(net), weights(model.net_g_ema))
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert json.loads(about["network_g"]) == opt["network_g"]
    assert (json.loads(about["param_key"]), json.loads(about["iteration"])) == ("params_ema", 2)

    opt["path"]["pretrain_network_g"] = str(path)
    assert equal(weights(build(opt, seed=1).net_g), weights(model.net_g_ema))


def test_weights_under_another_key(tmp_path):
    opt = options(tmp_path)
    torch.save({"weights": {}}, tmp_path / "net.pth")
    opt["path"]["pretrain_network_g"] = str(tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"net\.pth has no 'params' but weights"):
        build(opt)


@pytest.mark.parametrize("key", ["param_ema", "params_ema"])
def test_a_key_that_the_checkpoint_has_not(tmp_path, key):
    opt = options(tmp_path)
    torch.save({"params": weights(build(opt).net_g)}, tmp_path / "net.pth")
    opt = options(tmp_path, path={"pretrain_network_g": str(tmp_path / "net.pth"), "param_key_g": key})
    with pytest.raises(InputError, match=rf"net\.pth has no '{key}' but params \(path: param_key_g\)"):
        build(opt)


@pytest.mark.parametrize("key, ema_key", [(None, None), ("params", None), ("params", "params_ema")])
def test_where_averaged_weights_begin(tmp_path, key, ema_key):
    """With those of the checkpoint, or those of the network where it has none."""
    first, second = (weights(build(options(tmp_path), seed).net_g) for seed in (1, 2))
    content = first if key is None else {key: first} | ({ema_key: second} if ema_key else {})
    torch.save(content, tmp_path / "net.pth")
    path = {"pretrain_network_g": str(tmp_path / "net.pth"), "param_key_g": key}
    model = build(options(tmp_path, path=path, train={"ema_decay": 0.9}))
    assert equal(weights(model.net_g), first)
    assert equal(weights(model.net_g_ema), second if ema_key else first)


@pytest.fixture
def validating(tmp_path):
    write_pairs(tmp_path, count=3, lq=(13, 11))

    def make(model_type="ContrastModel", **changes):
        opt = options(tmp_path, model_type, **changes)
        model = build(opt)
        loader = build_dataloader(build_dataset(opt["datasets"]["val"]), opt["datasets"]["val"])
        return model, loader

    return make


@pytest.mark.parametrize("is_train", [True, False])
def test_a_result_that_is_not_finite_is_no_picture(validating, tmp_path, is_train):
    """All weights are numbers; the second image is what they cannot take."""
    model, loader = validating()
    model.is_train = model.opt["is_train"] = is_train
    forward, calls = model.net_g.forward, []

    def overflow(lq):
        calls.append(lq)
        return forward(lq) / (len(calls) != 2)

    model.net_g.forward = overflow
    first, second, _ = (Path(pair["lq_path"]).stem for pair in loader.dataset.paths)
    with pytest.raises(TrainingStopped, match=rf"^validation: .*{second}\.png: the network's result.* holds NaN"):
        model.validation(loader, 4, None, save_img=True)
    pictures = (tmp_path / "experiments" / "tiny" / "visualization").rglob("*.png")
    assert [path.name for path in pictures] == [f"{first}_{4 if is_train else 'tiny'}.png"]


def test_averaged_weights_are_validated(validating):
    model, loader = validating(train={"ema_decay": 0.9})
    model.validation(loader, 4, None)
    psnr = model.metric_results["psnr"]
    with torch.no_grad():
        model.net_g.conv_first.weight.zero_()
    model.validation(loader, 5, None)
    assert model.metric_results["psnr"] == psnr


def test_tiles(validating, log):
    """A tile that covers the image changes nothing; smaller ones nearly nothing."""
    found = {}
    for name, tile in {"whole": None, "covering": {"size": 16}, "small": {"size": 8, "overlap": 4}}.items():
        model, loader = validating(val={"tile": tile})
        assert (model.tiler is None) == (tile is None)
        model.validation(loader, 4, None)
        assert model.tiler is None or model.tiler.size == tile["size"]
        found[name] = model.metric_results["psnr"]
    assert found["covering"] == found["whole"] != found["small"]
    assert abs(found["small"] - found["whole"]) < 0.3
