"""What is saved, what a resumed run gets back, and validation."""

import json
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from safetensors import safe_open

import contrast_arch
from contrast_arch.errors import InputError, TrainingStopped
from contrast_arch.models import checkpoints
from contrast_arch.models.randomness import random_states
from contrast_arch.models.signals import NOTHING, SAVE, STOP
from contrast_arch.models.validation import image_file
from tests.conftest import write_pairs
from tests.models.building import build, equal, options, train, weights


def files(opt, folder="models"):
    return sorted(path.name for path in Path(opt["path"][folder]).iterdir() if path.is_file())


def test_a_resumed_model_is_the_same(tmp_path):
    """Weights, averaged weights, optimizer, schedule, counts, best metrics and random states."""
    opt = options(tmp_path, train={"ema_decay": 0.9})
    model = build(opt)
    train(model, 1, 3)
    model.nonfinite = {"total": 4, "in_a_row": 2}
    model.best_metric_results = {"val": {"psnr": {"better": "higher", "val": 30.5, "iter": 2}}}
    model.seen = {"epoch": 3, "position": 12}
    model.save(3, 3)
    states = random_states()
    train(model, 4, 5)

    resumed = options(tmp_path, train={"ema_decay": 0.9})
    state = build(resumed).load_state(resumed)
    resumed["path"]["pretrain_network_g"] = str(checkpoints.network_file(resumed, 3))
    again = build(resumed, seed=1)
    again.resume_training(state)
    assert str(random_states()) == str(states)
    assert again.seen == {"epoch": 3, "position": 12} and again.nonfinite == {"total": 4, "in_a_row": 2}
    assert again.best_metric_results["val"]["psnr"] == {"better": "higher", "val": 30.5, "iter": 2}
    train(again, 4, 5)
    assert equal(weights(model.net_g), weights(again.net_g))
    assert equal(weights(model.net_g_ema), weights(again.net_g_ema))
    assert again.get_current_learning_rate() == model.get_current_learning_rate() == [5e-4]


def test_a_state_of_srmodel_is_resumed_too(tmp_path):
    opt = options(tmp_path, "SRModel")
    basicsr = build(opt)
    train(basicsr, 1, 2)
    basicsr.save(1, 2)
    ours = options(tmp_path)
    ours["path"]["pretrain_network_g"] = str(checkpoints.network_file(ours, 2))
    model = build(ours, seed=1)
    model.resume_training(model.load_state(ours))
    assert model.seen == {"epoch": 1, "position": 0}
    train(basicsr, 3, 4)
    train(model, 3, 4)
    assert equal(weights(basicsr.net_g), weights(model.net_g))


@pytest.mark.parametrize("model_type, ema_decay", [("SRModel", 0), ("ContrastModel", 0), ("ContrastModel", 0.5)])
def test_a_run_that_began_from_weights_without_a_key(tmp_path, model_type, ema_decay):
    """As the trainer resumes it."""
    from basicsr import train as trainer

    torch.save(weights(build(options(tmp_path), 7).net_g), tmp_path / "flat.pth")
    path = {"pretrain_network_g": str(tmp_path / "flat.pth"), "param_key_g": None}
    opt = options(tmp_path, model_type, path=path, train={"ema_decay": ema_decay})
    model = build(opt)
    train(model, 1, 2)
    model.save(0, 2)
    opt = options(tmp_path, model_type, path=path, train={"ema_decay": ema_decay})
    opt["path"]["resume_state"] = str(checkpoints.state_file(opt, 2))
    trainer.check_resume(opt, 2)
    again = build(opt, seed=1)
    again.resume_training(checkpoints.read_state(opt["path"]["resume_state"]))
    assert equal(weights(model.net_g), weights(again.net_g))
    assert not ema_decay or equal(weights(model.net_g_ema), weights(again.net_g_ema))


def test_why_a_state_was_passed_over_is_in_the_log(tmp_path, log):
    opt = options(tmp_path)
    model = build(opt)
    for iteration in (1, 2):
        model.save(0, iteration)
    checkpoints.state_file(opt, 2).write_bytes(b"broken")
    state = model.load_state(opt)
    assert state["iter"] == 1 and opt["path"]["resume_state"].endswith("1.state")
    model.resume_training(state)
    assert any(line.startswith("Passed over: training state") and "2.state" in line for line in log)


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


def test_the_last_and_the_best_are_kept(tmp_path):
    opt = options(tmp_path, logger={"keep_last": 2})
    model = build(opt)
    model.best_metric_results = {"val": {"psnr": {"val": 1.0, "iter": 2}, "ssim": {"val": 1.0, "iter": 3}}}
    for iteration in range(1, 8):
        model.save(0, iteration)
    assert files(opt, "training_states") == ["2.state", "3.state", "6.state", "7.state"]


def test_weights_that_are_not_finite_replace_nothing(tmp_path):
    opt = options(tmp_path)
    model = build(opt)
    model.save(0, 1)
    with torch.no_grad():
        model.net_g.conv_first.weight[0] = float("nan")
    with pytest.raises(
        TrainingStopped, match=r"conv_first\.weight is not finite any more.*net_g_1\.pth \(iteration 1\)"
    ):
        model.save(0, 2)
    assert files(opt) == ["net_g_1.pth"]


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch, log):
    """But the end of it, where the weights would be lost."""
    monkeypatch.setattr(checkpoints.time, "sleep", lambda seconds: None)
    opt = options(tmp_path)
    model = build(opt)
    model.save(0, 1)
    save = torch.save

    def half(content, path):
        save(content, path)
        path.write_bytes(path.read_bytes()[:1000])
        raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")

    monkeypatch.setattr(torch, "save", half)
    model.save(0, 2)
    assert files(opt) == ["net_g_1.pth"] and files(opt, "training_states") == ["1.state"]
    assert "Nothing was saved at iteration 2" in log[-1] and "MiB are free" in log[-1]
    model.requests.wanted = STOP
    with pytest.raises(TrainingStopped, match=r"iteration 2 could not be saved; the last good .*net_g_1\.pth"):
        train(model, 3, 3)
    with pytest.raises(TrainingStopped, match=r"net_g_latest\.pth could not be written"):
        model.save(-1, -1)
    monkeypatch.setattr(torch, "save", save)
    model.save(0, 3)
    assert files(opt, "training_states") == ["1.state", "3.state"]


def test_requests_are_met_between_iterations(tmp_path, log):
    opt = options(tmp_path)
    model = build(opt)
    train(model, 1, 2)
    model.requests.wanted = SAVE
    train(model, 3, 3)
    assert files(opt, "training_states") == ["2.state"]
    train(model, 4, 4)
    model.requests.wanted = STOP
    before = weights(model.net_g)
    with pytest.raises(SystemExit) as stopped:
        train(model, 5, 5)
    assert stopped.value.code == 0 and files(opt, "training_states") == ["2.state", "4.state"]
    assert equal(before, torch.load(checkpoints.network_file(opt, 4), weights_only=True)["params"])
    assert "Stopped as asked to, after iteration 4; --auto_resume goes on from there." in log


def test_a_request_before_the_first_iteration(tmp_path):
    opt = options(tmp_path)
    model = build(opt)
    start = weights(model.net_g)
    model.requests.wanted = STOP
    with pytest.raises(SystemExit):
        train(model, 1, 1)
    assert files(opt, "training_states") == ["0.state"]
    state = model.load_state(opt)
    assert (state["iter"], state["epoch"], state["position"]) == (0, 0, 0)
    opt = options(tmp_path)
    opt["path"]["pretrain_network_g"] = str(checkpoints.network_file(opt, 0))
    again = build(opt, seed=1)
    again.resume_training(state)
    assert equal(start, weights(again.net_g))
    assert train(again, 1, 2) == train(build(options(tmp_path)), 1, 2)


@pytest.fixture
def validating(tmp_path):
    write_pairs(tmp_path, count=3, lq=(13, 11))

    def make(model_type="ContrastModel", **changes):
        opt = options(tmp_path, model_type, **changes)
        model = build(opt)
        loader = build_dataloader(build_dataset(opt["datasets"]["val"]), opt["datasets"]["val"])
        return model, loader

    return make


def test_validation_is_that_of_srmodel(validating, tmp_path, log):
    found, images = [], []
    for model_type in ("SRModel", "ContrastModel"):
        model, loader = validating(model_type)
        log.clear()
        model.validation(loader, 4, None, save_img=True)
        found.append((log[-1], model.metric_results, model.best_metric_results))
        pictures = sorted((tmp_path / "experiments" / "tiny" / "visualization").rglob("*.png"))
        images.append([(path, cv2.imread(str(path)).tolist()) for path in pictures])
        assert [path.name for path in pictures] == ["0x4_4.png", "1x4_4.png", "2x4_4.png"]
        for path in pictures:
            path.unlink()
    assert found[0] == found[1] and images[0] == images[1]
    assert found[0][1]["psnr"] > 5 and "Validation val" in found[0][0]


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
    assert not hasattr(model, "metric_results")


def test_validation_leaves_the_generators_alone(validating):
    model, loader = validating()
    before = str(random_states())
    model.validation(loader, 4, None)
    assert str(random_states()) == before and model.net_g.training


def test_averaged_weights_are_validated(validating):
    model, loader = validating(train={"ema_decay": 0.9})
    model.validation(loader, 4, None)
    psnr = model.metric_results["psnr"]
    with torch.no_grad():
        model.net_g.conv_first.weight.zero_()
    model.validation(loader, 5, None)
    assert model.metric_results["psnr"] == psnr


def test_the_same_weights_are_measured_once(validating, log):
    """At the end BasicSR validates again; the log has it, the time is not spent."""
    model, loader = validating()
    model.validation(loader, 4, None)
    calls = []
    model.test = lambda: calls.append(1)
    model.validation(loader, 4, None)
    assert not calls and log[-1] == log[-2]


def test_validation_sets_of_one_name_are_all_measured(tmp_path, log):
    """As SRModel does: each has its own figures, and the best of the name is the best of all."""
    found = []
    for folder, seed in (("a", 0), ("b", 1)):
        write_pairs(tmp_path / folder, count=1, lq=(13, 11), seed=seed)
    write_pairs(tmp_path, count=1)
    for model_type in ("SRModel", "ContrastModel"):
        opt = options(tmp_path, model_type)
        model, loaders = build(opt), []
        for folder in ("a", "b"):
            section = opt["datasets"]["val"] | {"io_backend": {"type": "disk"}}
            section |= {"dataroot_gt": str(tmp_path / folder / "HR"), "dataroot_lq": str(tmp_path / folder / "LR")}
            loaders.append(build_dataloader(build_dataset(section), section))
        if model_type == "ContrastModel":
            model.val_loaders = loaders
        log.clear()
        figures = []
        for loader in loaders:
            model.validation(loader, 4, None)
            figures.append(model.metric_results)
            if model_type == "ContrastModel" and len(figures) == 1:
                assert model._validation_due(4)
        found.append(([line for line in log if "Validation" in line], figures, model.best_metric_results))
    assert found[0] == found[1]
    (_, (first, second), best) = found[0]
    assert first["psnr"] != second["psnr"] and best["val"]["psnr"]["val"] == max(first["psnr"], second["psnr"])
    assert not model._validation_due(4)


def test_signals_are_given_back_at_the_end(validating):
    """The last validation can be broken off in good order too; then whoever had the signals has them again."""
    model, loader = validating()
    before = signal.getsignal(signal.SIGTERM)
    model.begin([loader], None)
    assert signal.getsignal(signal.SIGTERM) != before
    model.validation(loader, 4, None)
    model.save(-1, -1)
    assert signal.getsignal(signal.SIGTERM) != before
    model.validation(loader, 5, None)
    assert signal.getsignal(signal.SIGTERM) == before
    model, loader = validating(train={"handle_signals": False})
    model.begin([loader], None)
    assert signal.getsignal(signal.SIGTERM) == before


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
    with pytest.raises(
        InputError, match="val: tile: tile size=6: expected a multiple of window_size=4, such as 4 or 8"
    ):
        validating(val={"tile": {"size": 6}})


def test_a_validation_that_was_broken_off_is_made_up_for(validating, log):
    model, loader = validating()
    model.val_loaders = [loader]
    train(model, 1, 2)
    model.save(0, 2)
    model.requests.wanted = STOP
    model.validation(loader, 2, None)
    assert "was broken off" in log[-1] and not hasattr(model, "metric_results")
    with pytest.raises(SystemExit):
        train(model, 3, 3)

    again, loader = validating()
    again.val_loaders = [loader]
    state = again.load_state(again.opt)
    assert state["validation_due"] and state["iter"] == 2
    again.resume_training(state)
    assert again.best_metric_results["val"]["psnr"]["iter"] == 2
    # The state knows it now.
    state = again.load_state(again.opt)
    assert not state["validation_due"] and state["best_metric_results"]["val"]["psnr"]["iter"] == 2


def test_a_state_can_be_asked_for_during_a_validation(validating):
    """It is saved between two images, and the validation goes on."""
    model, loader = validating()
    model.val_loaders = [loader]
    train(model, 1, 2)
    model.requests.wanted = SAVE
    model.validation(loader, 2, None)
    assert model.requests.wanted == NOTHING and model.metric_results["psnr"] > 5
    assert files(model.opt, "training_states") == ["2.state"]
    # Saved once more when the metrics were known.
    state = model.load_state(model.opt)
    assert not state["validation_due"] and state["best_metric_results"]["val"]["psnr"]["iter"] == 2


@pytest.mark.parametrize("is_train", [True, False])
def test_an_image_whose_name_opencv_cannot_write(tmp_path, is_train):
    opt = options(tmp_path)
    opt["is_train"] = is_train
    data = {"lq_path": ["LR/caf\udce9.png"]}
    with pytest.raises(TrainingStopped, match=r"val: save_img: .*caf\\udce9.*: the name is not UTF-8, and OpenCV"):
        image_file(opt, SimpleNamespace(opt={"name": "val"}), data, 4)


def test_images_without_gt(tmp_path, validating):
    """Large images, say: no metrics, images in the results folder."""
    opt = options(tmp_path, val={"metrics": None, "suffix": "x"})
    opt["is_train"] = False
    opt["datasets"] = {"test": {"name": "mine", "type": "SingleImageDataset", "phase": "test"}}
    opt["datasets"]["test"] |= {"dataroot_lq": str(tmp_path / "LR"), "io_backend": {"type": "disk"}}
    model = build(opt)
    loader = build_dataloader(build_dataset(opt["datasets"]["test"]), opt["datasets"]["test"])
    model.validation(loader, "tiny", None, save_img=True)
    folder = tmp_path / "experiments" / "tiny" / "visualization" / "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["0x4_x.png", "1x4_x.png", "2x4_x.png"]
    assert cv2.imread(str(folder / "0x4_x.png")).shape == (44, 52, 3)


def test_generators_of_python_and_numpy_are_resumed(tmp_path):
    opt = options(tmp_path)
    model = build(opt)
    model.save(0, 1)
    expected = random.random(), np.random.rand()
    model.resume_training(model.load_state(opt))
    assert (random.random(), np.random.rand()) == expected
