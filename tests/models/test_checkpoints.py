"""Files on the disk: whole at any instant, read with care."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from contrast_arch.errors import InputError
from contrast_arch.files import replacing
from contrast_arch.models import checkpoints
from contrast_arch.options.validation import settings_of
from contrast_arch.weights.files import read, weights_under
from tests.models.building import empty_run, save


@pytest.fixture
def opt(tmp_path):
    return empty_run(tmp_path)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.time, "sleep", lambda seconds: None)
    target, attempts = tmp_path / "net.pth", []
    checkpoints.write(target, lambda path: path.write_text("good"))

    def full(path):
        attempts.append(path)
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError) as failure:
        checkpoints.write(target, full)
    reason = str(failure.value)
    assert "net.pth could not be written" in reason and "No space left on device" in reason
    assert target.read_text() == "good" and os.listdir(tmp_path) == ["net.pth"]
    assert len(attempts) == 3 and all(path != target for path in attempts)


def test_the_disk_has_the_file_before_its_name(tmp_path, monkeypatch):
    """The file is synced before it is renamed, and its folder after that."""
    order = []
    fsync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("rename"), rename(self, to))[1])
    with replacing(tmp_path / "a.state", sync=True) as temporary:
        temporary.write_text("x")
    assert order == [str(tmp_path / ".a.state.tmp"), "rename", str(tmp_path)]


ONE = {"conv.weight": torch.ones(1)}
NAN = {"norm.weight": torch.ones(2), "module.conv.weight": torch.tensor([1.0, float("nan")])}


@pytest.mark.parametrize(
    "content, keys, found",
    [
        ({"params": ONE}, ["params"], ONE),
        ({"params": NAN, "params_ema": ONE}, ["params_ema", "params"], ONE),
        ({"params": ONE}, ["params_ema", "params"], ONE),
        (ONE, ["params_ema", None], ONE),
        ({"params": {"module.conv.weight": torch.ones(1)}}, ["params"], ONE),
        ({"params": ONE, "other": ONE}, ["params_ema"], "has no 'params_ema' but params, other (path: param_key_g)"),
        (ONE, ["params"], "has no 'params' but conv.weight: these are the weights themselves; write path: "),
        ({"params": ONE}, [None], "holds no weights under path: param_key_g: ~; try params (path: param_key_g)"),
        ({"params": [1]}, ["params"], "holds no weights under path: param_key_g: params; try params"),
        ([ONE], ["params"], "holds a list, expected weights or keys with weights"),
        ({"params": NAN}, ["params"], "holds NaN or infinity in params: conv.weight: the training that saved it"),
        (NAN, [None], "holds NaN or infinity in conv.weight: the training that saved it"),
    ],
)
def test_weights_under_a_key(content, keys, found):
    if not isinstance(found, str):
        assert weights_under("a.pth", content, *keys) == found
        return
    with pytest.raises(InputError) as raised:
        weights_under("a.pth", content, *keys)
    assert str(raised.value).startswith(f"checkpoint a.pth {found}")


def test_a_file_of_safetensors_has_no_key():
    assert weights_under("a.safetensors", ONE, "params_ema") == ONE


class Code:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    if zipped:
        torch.save({"params": {"a": Code()}}, "net.pth")
    else:
        Path("net.pth").write_bytes(pickle.dumps({"params": Code()}))
    with pytest.raises(InputError, match=r"net\.pth (holds more than weights, .*|cannot be read; .*)is refused"):
        read(Path("net.pth"))
    assert not Path("owned").exists()


def test_older_ones_are_removed_but_not_the_best(opt):
    save(opt, 5, 10, 15, 20, 25, 30)
    checkpoints.state_file(opt, 30).write_bytes(b"broken")
    checkpoints.network_file(opt, 5).with_suffix(".safetensors").touch()
    checkpoints.network_file(opt, 5, "d").touch()
    checkpoints.network_file(opt, "latest").touch()
    state = {"iter": 25, "best_metric_results": {"val": {"psnr": {"iter": 10}, "ssim": {"iter": 7}}}}
    checkpoints.save_state(opt, settings_of({"logger": {"keep_last": 2}}), state)
    assert checkpoints.saved_iterations(opt) == [30, 25, 20, 10]
    names = sorted(path.name for path in Path(opt["path"]["models"]).iterdir())
    assert names == ["net_g_10.pth", "net_g_20.pth", "net_g_25.pth", "net_g_30.pth", "net_g_latest.pth"]


def test_what_was_not_finished_is_removed(opt):
    save(opt, 5)
    for folder, name in (("training_states", ".10.state.tmp"), ("models", ".net_g_10.pth.tmp"), ("models", ".other")):
        Path(opt["path"][folder], name).touch()
    checkpoints.remove_unfinished(opt)
    assert sorted(os.listdir(opt["path"]["models"])) == [".other", "net_g_5.pth"]
    assert os.listdir(opt["path"]["training_states"]) == ["5.state"]
