"""Weights by name, and weights of experiments of one's own."""

import errno
import hashlib
import importlib
import json
import os
import time
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import contrast_arch
from contrast_arch.cli import main
from contrast_arch.errors import InputError
from contrast_arch.inference.files import DEFAULT_MODEL
from contrast_arch.training.loop import Trainer
from contrast_arch.weights import describe_pretrained, export, load_pretrained, pretrained_names
from tests.conftest import ROOT, SET5, TINY, tiny_options
from tests.experiments.recording import Record
from tests.experiments.writing import Start, changed
from tests.models.building import equal
from tests.models.building import weights as weights_of
from tests.training.building import run_options

# Set5, PSNR of bicubic enlargement.
BICUBIC = {2: 33.68, 3: 30.40, 4: 28.43}


@pytest.mark.parametrize("name", pretrained_names())
def test_shipped_weights_say_what_they_are(name, monkeypatch):
    """Among that the options of the script that trains them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found, script = describe_pretrained(name), importlib.import_module("weights").options_of(f"x{name[-1]}", 0)
    options = found["options"]
    assert found["network_g"] == script["network_g"]
    assert found["network_g"]["upscale"] == options["scale"] == int(name[-1])
    keys = "amp", "ema_decay", "optim_g", "total_iter", "warmup_iter", "clip_grad_norm", "pixel_opt"
    assert [options["train"][key] for key in keys] == [script["train"][key] for key in keys]
    keys = "gt_size", "batch_size_per_gpu", "use_hflip", "use_rot"
    assert all(options["datasets"]["train"][key] == script["datasets"]["train"][key] for key in keys)
    assert found["images"] == found["iteration"] * options["datasets"]["train"]["batch_size_per_gpu"]
    assert sorted(found["metrics"]) == ["BSD20", "Set14", "Set5"]
    assert found["metrics"]["Set5"]["psnr"] > BICUBIC[options["scale"]] + 2
    assert (ROOT / "weights" / f"{name}.safetensors").stat().st_size < 2e6


def test_weights_give_the_psnr_that_they_are_said_to():
    """On the published Set5; validation had LQ of ``contrast-arch prepare``, which differs in rounding."""
    import cv2
    from basicsr.metrics import calculate_psnr

    net = load_pretrained(DEFAULT_MODEL)
    psnr = []
    for path in sorted((SET5 / "HR").iterdir()):
        lq = cv2.imread(str(SET5 / "LR_bicubic" / "X4" / f"{path.stem}x4.png"))[:, :, ::-1].copy()
        sr, gt = contrast_arch.upscale(lq, net, tile=0)[:, :, ::-1], cv2.imread(str(path))
        psnr.append(calculate_psnr(sr, gt[: sr.shape[0], : sr.shape[1]], crop_border=4, test_y_channel=True))
    assert sum(psnr) / 5 == pytest.approx(describe_pretrained(DEFAULT_MODEL)["metrics"]["Set5"]["psnr"], abs=0.02)


def test_export_of_a_training(tmp_path):
    opt = run_options(tmp_path, name="train_tiny_from_scratch", train={"total_iter": 4, "ema_decay": 0})
    opt["network_g"] = dict(TINY)
    Trainer(opt, ("options.yml", yaml.safe_dump(tiny_options(tmp_path)))).run()
    folder, file = tmp_path / "experiments" / "train_tiny_from_scratch", tmp_path / "weights" / "tiny.safetensors"
    assert main(["export", str(folder), "--output", str(file.parent)]) == 0
    net = contrast_arch.load_pretrained(file)
    expected = torch.load(folder / "models" / "net_g_latest.pth", weights_only=True)["params"]
    assert equal(weights_of(net), expected)
    found = describe_pretrained(file)
    assert found["network_g"] == TINY
    assert (found["iteration"], found["images"]) == (4, 8)
    assert set(found["metrics"]) == {"val"} and set(found["metrics"]["val"]) == {"psnr", "ssim"}
    assert found["options"]["scale"] == 4 and found["options"]["datasets"]["train"]["gt_size"] == 32


def exported_from(folder, *arguments, **options):
    file = export(folder, folder.parent, *arguments, **options)
    return describe_pretrained(file), load_pretrained(file).state_dict()["norm.bias"].unique().item()


@pytest.mark.parametrize("weights, value", [("auto", 3), ("ema", 3), ("plain", 2)])
def test_metrics_are_those_of_the_weights(finished, weights, value):
    """Validation measures averaged weights; of plain ones beside them nothing is known."""
    _, _, folder, save = finished
    save("net_g_latest.pth", params=2, params_ema=3)
    found, bias = exported_from(folder, weights=weights)
    measured = {"Set5": {"psnr": pytest.approx(30.6), "ssim": pytest.approx(0.86)}}
    assert bias == value and found["metrics"] == ({} if weights == "plain" else measured)
    assert found["param_key"] == ("params" if weights == "plain" else "params_ema")
    save("net_g_latest.pth", params=2, params_ema=float("nan"))
    if weights != "plain":
        with pytest.raises(InputError, match=r"net_g_latest\.pth holds NaN or infinity in params_ema: norm\.bias"):
            export(folder, folder.parent, weights=weights)


def test_plain_weights_without_averaged_ones(finished):
    _, _, folder, _ = finished
    assert exported_from(folder)[0]["param_key"] == "params"
    assert exported_from(folder, weights="plain")[0]["metrics"]["Set5"]["psnr"] == pytest.approx(30.6)
    with pytest.raises(InputError, match=r"net_g_latest\.pth has no 'params_ema' but params"):
        export(folder, folder.parent, weights="ema")


def test_half_precision(finished):
    """A file of half the numbers' bytes, whose weights load as float32."""
    _, _, folder, save = finished
    save("net_g_latest.pth", params=1 / 3)
    whole = load_pretrained(export(folder, folder.parent / "whole.safetensors")).state_dict()
    found, bias = exported_from(folder, half=True)
    assert bias == float(torch.tensor(1 / 3).half()) != 1 / 3
    net = load_pretrained(folder.parent / "A.safetensors")
    assert all(torch.equal(value, whole[name].half().float()) for name, value in net.state_dict().items())
    assert found["metrics"]["Set5"]["psnr"] == pytest.approx(30.6)
    save("net_g_latest.pth", params=1e5)
    with pytest.raises(InputError, match=r"net_g_latest\.pth: norm\.bias holds numbers above 65,504.*--half"):
        export(folder, folder.parent, half=True)


@pytest.mark.parametrize("iteration, number, value", [("40", 40, 4), (40, 40, 4), ("best", 60, 2), ("latest", 60, 2)])
def test_a_chosen_iteration(finished, iteration, number, value):
    _, _, folder, save = finished
    save("net_g_40.pth", params=4)
    save("net_g_30.pth", params=5)
    found, bias = exported_from(folder, iteration)
    assert (bias, found["iteration"], found["images"]) == (value, number, 4 * number)
    assert found["metrics"]["Set5"]["psnr"] == pytest.approx(30 + number / 100)
    # Not validated.
    assert exported_from(folder, 30)[0]["metrics"] == {}


def test_a_checkpoint_that_a_later_run_did_not_save(finished):
    """The run went on from an earlier state, and validated at an iteration where it saved nothing."""
    root, options, folder, save = finished
    save("net_g_40.pth", params=4)
    saved = time.mktime(time.strptime("20250101_000000", "%Y%m%d_%H%M%S"))
    os.utime(folder / "models" / "net_g_40.pth", (saved + 5, saved + 5))
    assert exported_from(folder, 40)[0]["metrics"]["Set5"]["psnr"] == pytest.approx(30.4)
    start = Start(root, "A", options, start=20, time="000010")
    start.train({30: 1.0, 40: 1.0})
    start.validate(40, psnr=99.0, ssim=0.1)
    assert exported_from(folder, 40)[0]["metrics"] == {}
    save("net_g_40.pth", params=4)
    assert exported_from(folder, 40)[0]["metrics"]["Set5"]["psnr"] == pytest.approx(99)


def test_a_run_in_progress(finished):
    """A checkpoint of a number, and one of the end that says its iteration."""
    _, _, folder, save = finished
    (log,) = folder.glob("*.log")
    log.write_text(log.read_text().partition("End of training")[0])
    save("net_g_40.pth", params=4)
    assert exported_from(folder, "40")[0]["iteration"] == 40
    latest = folder / "models" / "net_g_latest.pth"
    about = {"contrast_arch": {"network_g": dict(TINY), "iteration": 20}}
    torch.save(torch.load(latest, weights_only=True) | about, latest)
    found = exported_from(folder)[0]
    assert found["iteration"] == 20 and found["metrics"]["Set5"]["psnr"] == pytest.approx(30.2)
    latest.unlink()
    assert exported_from(folder)[0]["iteration"] == 40


def test_checksums_and_version(finished):
    _, _, folder, save = finished
    save("net_g_latest.pth", params=2)
    checkpoint = folder / "models" / "net_g_latest.pth"
    content = torch.load(checkpoint, weights_only=True)["params"]
    strided = {"conv_first.weight": content["conv_first.weight"].contiguous(memory_format=torch.channels_last)}
    torch.save({"params": content | strided}, checkpoint)
    file = export(folder, folder.parent)
    found = describe_pretrained(file)
    assert found["version"] == contrast_arch.__version__
    bias = np.full(12, 2, np.float32)
    assert found["checksums"]["norm.bias"] == hashlib.sha256(bias.tobytes()).hexdigest()
    assert torch.equal(load_pretrained(file).conv_first.weight, content["conv_first.weight"])
    assert found["checksums"].keys() == load_pretrained(file).state_dict().keys()


def test_where_it_is_written(finished, capsys):
    root, _, folder, _ = finished
    assert main(["export", str(folder), "-o", str(root / "new" / "net.safetensors"), "--weights", "plain"]) == 0
    assert capsys.readouterr().out == f"{root / 'new' / 'net.safetensors'}\n"
    before = (root / "new" / "net.safetensors").read_bytes()
    assert main(["export", str(folder), "--output", str(root / "new"), "--iteration", "latest"]) == 0
    assert sorted(path.name for path in (root / "new").iterdir()) == ["A.safetensors", "net.safetensors"]
    assert main(["export", str(folder), "-o", str(root / "new" / "net.safetensors"), "--iteration", "7"]) == 1
    assert "A has no checkpoint of iteration 7; it has 60" in capsys.readouterr().err
    assert (root / "new" / "net.safetensors").read_bytes() == before
    assert main(["export", str(folder), str(folder), "-o", str(root / "one.safetensors")]) == 1
    assert "one.safetensors: 2 experiments need a folder, not one file" in capsys.readouterr().err
    assert main(["export", str(folder), "-o", str(root / "one.pth")]) == 1
    assert "one.pth: expected a folder or, in layout 'own', the name of a .safetensors file" in capsys.readouterr().err
    assert main(["export", str(folder), "-o", str(root / "new" / "net.safetensors" / "x")]) == 1
    assert "cannot be written: Not a directory; name another" in capsys.readouterr().err


def test_a_write_that_fails_leaves_the_earlier_file(finished, monkeypatch):
    _, _, folder, _ = finished
    file = export(folder, folder.parent)
    before = file.read_bytes()
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(type(file), "write_bytes", Mock(side_effect=full))
    with pytest.raises(InputError, match=r"A\.safetensors cannot be written: No space left on device; name another"):
        export(folder, folder.parent)
    assert file.read_bytes() == before and not list(folder.parent.glob(".*"))


def test_what_came_after_the_end_is_not_exported(finished):
    """The run went on from an earlier state, longer and with larger batches, and was stopped."""
    root, options, folder, save = finished
    longer = changed(options, train__total_iter=100, datasets__train__batch_size_per_gpu=8)
    start = Start(root, "A", longer, start=40, time="000001")
    start.train({50: 1.0, 60: 1.0, 70: 1.0})
    start.validate(60, psnr=99.0, ssim=0.1)
    save("net_g_60.pth", params=7)
    found, bias = exported_from(folder)
    assert bias == 2
    assert (found["iteration"], found["images"]) == (60, 240)
    assert found["metrics"] == {"Set5": {"psnr": pytest.approx(30.6), "ssim": pytest.approx(0.86)}}
    assert found["options"]["train"]["total_iter"] == 60
    assert found["options"]["datasets"]["train"]["batch_size_per_gpu"] == 4

    start = Start(root, "A", longer, start=70, time="000002")
    start.train({80: 1.0, 90: 1.0, 100: 1.0})
    start.end(psnr=50.0, ssim=0.9)
    found, _ = exported_from(folder)
    assert (found["iteration"], found["images"]) == (100, 640)
    assert found["metrics"]["Set5"]["psnr"] == pytest.approx(50)


def test_a_record_is_what_is_exported(finished):
    """Iteration, images and metrics are those of metrics.jsonl; a later start that was stopped adds nothing."""
    root, options, folder, _ = finished
    record = Record(root, "A", options)
    record.start(time=time.mktime(time.strptime("20250101_000005", "%Y%m%d_%H%M%S")), batch=16)
    record.train(60, 0.1)
    record.save(60, "latest")
    record.validate(60, psnr=33.123456789)
    record.start(60, time=record.began + 100, total=80, resumed=True)
    record.train(70, 0.1)
    found, _ = exported_from(folder)
    assert (found["iteration"], found["images"]) == (60, 960)
    assert found["metrics"] == {"Set5": {"psnr": 33.123456789}}
    assert found["options"]["train"]["optim_g"]["lr"] == 2e-4


def test_options_are_those_that_were_run(finished):
    """With --force_yml, which the copy of the option file does not have."""
    _, options, folder, _ = finished
    in_file = changed(options, network_g__dims=16, train__optim_g__lr=1.0)
    (folder / "A.yml").write_text(yaml.safe_dump(in_file))
    found, _ = exported_from(folder)
    assert found["network_g"] == TINY and found["options"]["train"]["optim_g"]["lr"] == 2e-4


def test_weights_of_an_unknown_iteration(finished):
    _, _, folder, _ = finished
    (log,) = folder.glob("*.log")
    log.write_text(log.read_text().partition("End of training")[0])
    with pytest.raises(InputError, match="A: expected a finished experiment, with the log"):
        export(folder, folder.parent)


def test_mistakes(finished, tmp_path, capsys):
    _, _, folder, _ = finished
    file, other = export(folder, tmp_path / "tiny.safetensors"), tmp_path / "other.safetensors"
    with pytest.raises(InputError, match="no weights Contrats: expected "):
        load_pretrained("Contrats")
    weights = load_pretrained(file).state_dict()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"tiny\.safetensors cannot be read"):
        load_pretrained(file)
    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(InputError, match="does not say its network_g"):
        describe_pretrained(other)
    with pytest.raises(InputError, match="is of another network: it holds a; expected weights of Contrast, "):
        load_pretrained(other)
    for network_g in ({"type": "SwinIR"}, {**TINY, "dims": 13}, dict(TINY)):
        save_file({"a": torch.zeros(1)}, other, {"network_g": json.dumps(network_g)})
        with pytest.raises(InputError, match=r"checkpoint .*other\.safetensors.* network_g"):
            load_pretrained(other)
    weights["norm.weight"][:] = float("nan")
    save_file(weights, other, {"network_g": json.dumps(TINY)})
    with pytest.raises(InputError, match=r"other\.safetensors holds NaN or infinity in norm\.weight"):
        load_pretrained(other)

    (tmp_path / "empty").mkdir()
    assert main(["export", str(tmp_path / "empty"), "--output", str(tmp_path / "weights")]) == 1
    assert "has no checkpoints: expected net_g_latest.pth" in capsys.readouterr().err
    (folder / "models" / "net_g_latest.pth").write_bytes(b"no checkpoint")
    assert main(["export", str(folder), "--output", str(tmp_path / "weights")]) == 1
    assert "net_g_latest.pth cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "weights").exists()
