"""Networks from checkpoints of every kind."""

import json
import pickle
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from contrast_arch import load_pretrained
from contrast_arch.errors import InputError
from contrast_arch.inference.files import DEFAULT_MODEL
from contrast_arch.layers.windows import relative_position_index
from contrast_arch.models import checkpoints
from contrast_arch.registration import networks
from contrast_arch.version import __version__
from contrast_arch.weights import describe_pretrained
from tests.conftest import TINY
from tests.experiments.writing import OPTIONS, Start, changed
from tests.models.building import build, equal, options, train, weights
from tests.weights.conftest import assert_refused

SIZES = {key: value for key, value in TINY.items() if key != "type"}


def network(seed=0, type="Contrast", **arguments):
    """A network of TINY's sizes whose weights are random to the last bias."""
    torch.manual_seed(seed)
    net = networks()[type](**{**SIZES, **arguments}).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return net


def output(net):
    return net(torch.rand(1, net.in_chans, 9, 7, generator=torch.Generator().manual_seed(0))).detach()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"params": state},
        lambda state: {"params": weights(network(1)), "params_ema": state},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"params": {f"module._orig_mod.{key}": value for key, value in state.items()}},
        lambda state: {"params": {f"_orig_mod.module.{key}": value for key, value in state.items()}},
        lambda state: {"state_dict": {f"net_g.module._orig_mod.{key}": value for key, value in state.items()}},
        lambda state: {
            "state_dict": {f"module.generator.{key}": value for key, value in state.items()}
            | {"module.discriminator.conv.weight": torch.ones(1), "step_counter": torch.ones(1)}
        },
    ],
)
def test_every_form_of_a_checkpoint(tmp_path, wrap):
    net = network()
    torch.save(wrap(weights(net)), tmp_path / "a.pth")
    found = load_pretrained(str(tmp_path / "a.pth"), **TINY)
    assert not found.training and equal(weights(found), weights(net))


def test_param_key(tmp_path):
    plain, averaged = network(1), network(2)
    torch.save({"params": weights(plain), "params_ema": weights(averaged)}, tmp_path / "a.pth")
    assert equal(weights(load_pretrained(tmp_path / "a.pth", **TINY)), weights(averaged))
    assert equal(weights(load_pretrained(tmp_path / "a.pth", param_key="params", **TINY)), weights(plain))
    with pytest.raises(InputError, match=r"a\.pth has no 'weights' but params, params_ema \(path: param_key_g\)"):
        load_pretrained(tmp_path / "a.pth", param_key="weights", **TINY)
    save_file(weights(plain), tmp_path / "a.safetensors", {"param_key": '"params"', "network_g": json.dumps(TINY)})
    with pytest.raises(InputError, match=r"a\.safetensors holds the weights of params, and no 'params_ema'"):
        load_pretrained(tmp_path / "a.safetensors", param_key="params_ema")


@pytest.fixture
def experiment(tmp_path):
    """SRModel's: validations at 20, 40 and 60, the best at 40, whose checkpoints have their iteration as a bias."""
    start = Start(tmp_path, "A", changed(OPTIONS, network_g=dict(TINY)))
    (start.folder / "A.yml").write_text(yaml.safe_dump(changed(OPTIONS, network_g=dict(TINY))))
    for iteration, psnr in ((20, 30.0), (40, 32.0), (60, 31.0)):
        start.train({iteration - 10: 1.0, iteration: 1.0})
        start.validate(iteration, psnr=psnr, ssim=1 - psnr / 100)
    models = start.folder / "models"
    models.mkdir()
    state = weights(network())
    for name, bias in ((20, 20), (40, 40), (60, 60), ("latest", 60)):
        content = {"params": state | {"norm.bias": torch.full((12,), float(bias))}}
        torch.save(content, models / f"net_g_{name}.pth")
    start.end(psnr=31.0, ssim=0.8)
    return start.folder


def bias(net):
    return net.norm.bias[0].item()


def test_folder_of_an_experiment(experiment):
    assert bias(load_pretrained(experiment)) == 60
    assert bias(load_pretrained(str(experiment), iteration="best")) == 40
    assert bias(load_pretrained(experiment, iteration=20)) == bias(load_pretrained(experiment, iteration="20")) == 20
    assert bias(load_pretrained(experiment / "models" / "net_g_40.pth")) == 40
    with pytest.raises(InputError, match="A has no checkpoint of iteration 30; it has 20, 40, 60"):
        load_pretrained(experiment, iteration=30)
    with pytest.raises(InputError, match="iteration='last': expected 'latest', 'best' or a number"):
        load_pretrained(experiment, iteration="last")
    with pytest.raises(InputError, match="iteration=20 chooses a checkpoint of an experiment's folder"):
        load_pretrained(experiment / "models" / "net_g_40.pth", iteration=20)
    (experiment / "models" / "net_g_40.pth").unlink()
    (experiment / "models" / "net_g_60.pth").unlink()
    assert bias(load_pretrained(experiment, iteration="best")) == bias(load_pretrained(experiment, iteration=60)) == 60
    (experiment / "models" / "net_g_latest.pth").unlink()
    assert bias(load_pretrained(experiment)) == 20
    (experiment / "models" / "net_g_20.pth").unlink()
    with pytest.raises(InputError, match=r"A has no checkpoints: expected net_g_latest\.pth or net_g_NUMBER\.pth in"):
        load_pretrained(experiment)


def test_checkpoints_of_contrast_model_say_their_network(tmp_path):
    """Wherever they are copied to; stock SRModel reads them as it does its own."""
    opt = options(tmp_path, train={"ema_decay": 0.5}, logger={"save_format": "safetensors"})
    opt["network_g"]["norm_layer"] = torch.nn.LayerNorm
    model = build(opt)
    train(model, 1, 3)
    model.save(0, 3)
    model.save(0, -1)
    models = Path(opt["path"]["models"])
    for name in ("net_g_3.pth", "net_g_latest.pth", "net_g_latest.safetensors"):
        copied = (models / name).rename(tmp_path / name)
        found = describe_pretrained(copied)
        expected = {**TINY, "norm_layer": "LayerNorm"}
        assert (found["network_g"], found["iteration"], found["version"]) == (expected, 3, __version__)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert equal(weights(load_pretrained(copied)), weights(model.net_g_ema))
    file = str(tmp_path / "net_g_3.pth")
    for key, net in (("params", model.net_g), ("params_ema", model.net_g_ema)):
        path = {"pretrain_network_g": file, "param_key_g": key}
        stock = build(options(tmp_path, "SRModel", path=path, train={"ema_decay": 0.5}), seed=1)
        assert equal(weights(stock.net_g), weights(net))
        assert equal(weights(stock.net_g_ema), weights(model.net_g_ema))


def test_a_resumed_run_knows_its_iteration(tmp_path):
    opt = options(tmp_path)
    model = build(opt)
    train(model, 1, 2)
    model.save(0, 2)
    again = build(options(tmp_path), seed=1)
    state = checkpoints.state_file(opt, 2)
    again.resume_training(torch.load(state, weights_only=True))
    again.save(0, -1)
    assert describe_pretrained(Path(opt["path"]["models"], "net_g_latest.pth"))["iteration"] == 2


def test_contrast_model_begins_with_weights_that_ship(tmp_path):
    name = DEFAULT_MODEL
    network_g = describe_pretrained(name)["network_g"]
    opt = options(tmp_path, network_g=network_g, path={"pretrain_network_g": name}, train={"ema_decay": 0.9})
    model, expected = build(opt | {"network_g": network_g}), weights(load_pretrained(name))
    assert equal(weights(model.net_g), expected) and equal(weights(model.net_g_ema), expected)


class Code:
    def __reduce__(self):
        return subprocess.call, (["false"],)


def swinir(state):
    """SwinIR's names: window attention without conv_block and overlap_attn."""
    return {key: value for key, value in state.items() if "overlap_attn" not in key and "conv_block" not in key}


def hat(state):
    return state | {"relative_position_index_SA": relative_position_index(4)}


BROKEN = {
    "empty.pth": (lambda path: path.write_bytes(b""), r"empty\.pth cannot be read: it is empty \(0 bytes\); expected"),
    "empty.safetensors": (lambda path: path.write_bytes(b""), r"cannot be read: it is empty \(0 bytes\); expected"),
    "page.pth": (lambda path: path.write_text("<!DOCTYPE html>"), "cannot be read; it may be .*, or no PyTorch file: "),
    "program.pth": (
        lambda path: torch.jit.script(torch.nn.ReLU()).save(str(path)),
        "it is a TorchScript archive, a program; save the network's state_dict; expected a file of torch.save",
    ),
    "code.pth": (lambda path: torch.save({"params": Code()}, path), "holds more than weights, .* and is refused"),
    "pickle.pth": (lambda path: path.write_bytes(pickle.dumps({"a": Code()}, 2)), "holds more than weights, .*refused"),
    "whole.pth": (lambda path: torch.save(network(), path), "holds more than weights, .*; save its state_dict alone"),
    "list.pth": (lambda path: torch.save([1], path), "holds a list, expected weights or keys with weights"),
    "5.state": (lambda path: torch.save({"iter": 5, "epoch": 1}, path), "holds no weights under .*; try iter, epoch "),
    "hat.pth": (
        lambda path: torch.save({"params": hat(weights(network(type="HATLight")))}, path),
        "is of HAT, .*: type='HATLight' loads it as such; expected weights of Contrast, ",
    ),
    "swinir.pth": (
        lambda path: torch.save({"params": swinir(weights(network(type="HATLight")))}, path),
        "is of SwinIR or another network with window attention alone; expected weights of Contrast, ",
    ),
    "other.pth": (
        lambda path: torch.save(torch.nn.Linear(2, 2).state_dict(), path),
        "is of another network: it holds weight, bias; expected weights of Contrast, ContrastNoPE, ",
    ),
    "part.pth": (
        lambda path: torch.save({k: v for k, v in weights(network()).items() if "upsample" not in k}, path),
        "holds no whole Contrast: its weights do not say the network",
    ),
    "nan.pth": (
        lambda path: torch.save({"params": weights(network()) | {"norm.bias": torch.full((12,), torch.nan)}}, path),
        r"holds NaN or infinity in params: norm\.bias",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_are_something_else(tmp_path, name):
    assert_refused(tmp_path / name, *BROKEN[name])


def test_a_truncated_file(tmp_path):
    torch.save({"params": weights(network())}, tmp_path / "a.pth")
    save_file(weights(network()), tmp_path / "a.safetensors", {"network_g": json.dumps(TINY)})
    for file in ("a.pth", "a.safetensors"):
        path = tmp_path / file
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=r"a\.\w+ cannot be read; it may be truncated, or no PyTorch file: ") as e:
            load_pretrained(path)
        assert "\n" not in str(e.value) and len(str(e.value)) < 300
    torch.save({"params": weights(network())}, tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content.replace(b"PK\x01\x02", b"PK\x00\x00"))  # the list of the archive's files
    with pytest.raises(InputError, match=r"a\.pth cannot be read; it may be truncated"):
        load_pretrained(tmp_path / "a.pth")


def test_a_folder_named_models(tmp_path):
    """Without an option file the folder is of no experiment."""
    (tmp_path / "models").mkdir()
    net = network()
    torch.save(weights(net), tmp_path / "models" / "a.pth")
    with pytest.warns(UserWarning, match="does not say its network"):
        assert equal(weights(load_pretrained(tmp_path / "models" / "a.pth")), weights(net))


def test_a_hat_checkpoint_as_hat_light(tmp_path):
    net = network(type="HATLight")
    torch.save({"params_ema": hat(weights(net))}, tmp_path / "hat.pth")
    with pytest.warns(UserWarning, match="HATLight is taken from its weights, .*img_size=64"):
        assert torch.equal(output(load_pretrained(tmp_path / "hat.pth", type="HATLight")), output(net))


@pytest.mark.parametrize("upsampler", ["pixelshuffledirect", "pixelshuffle"])
def test_another_scale(tmp_path, upsampler):
    torch.save({"params": weights(network(upsampler=upsampler))}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth is of scale 4, expected 2 \(upscale\)"):
        load_pretrained(tmp_path / "a.pth", upscale=2)
    with pytest.raises(InputError, match=r"a\.pth is of scale 4, expected 2 \(upscale\)"):
        load_pretrained(tmp_path / "a.pth", **{**TINY, "upscale": 2, "upsampler": upsampler})
    with pytest.raises(InputError, match=r"a\.pth was not saved from this network_g \(Contrast\): .* expected \(24"):
        load_pretrained(tmp_path / "a.pth", dims=24)


def test_networks_and_devices_that_are_not_there(tmp_path):
    torch.save({"params": weights(network())}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="network_g: type: HAT is no network of this package; expected Contrast, "):
        load_pretrained(tmp_path / "a.pth", type="HAT")
    with pytest.raises(InputError, match="Contrast has no argument 'dim'"):
        load_pretrained(tmp_path / "a.pth", dim=12)
    with pytest.raises(InputError, match=r"device='cuda:99': .*expected cpu, or a GPU"):
        load_pretrained(tmp_path / "a.pth", device="cuda:99")


def test_a_damaged_tensor_differs_from_its_checksum(tmp_path):
    from contrast_arch.weights.files import checksum

    state = weights(network())
    sums = {name: checksum(value) for name, value in state.items()}
    about = {"network_g": json.dumps(TINY), "checksums": json.dumps(sums)}
    save_file(state, tmp_path / "a.safetensors", about)
    load_pretrained(tmp_path / "a.safetensors")
    state["norm.bias"][3] += 1
    save_file(state, tmp_path / "a.safetensors", about)
    with pytest.raises(InputError, match=r"a\.safetensors is damaged: norm\.bias differs from its checksum"):
        load_pretrained(tmp_path / "a.safetensors")


def test_weights_in_a_byte_each(tmp_path):
    """As programs that shrink files for inference leave them."""
    state = {name: value.to(torch.float8_e4m3fn) for name, value in weights(network()).items()}
    torch.save({"params": state}, tmp_path / "a.pth")
    found = load_pretrained(tmp_path / "a.pth", **TINY)
    assert equal(weights(found), {name: value.float() for name, value in state.items()})
    state["norm.bias"] = torch.full((12,), torch.nan).to(torch.float8_e4m3fn)
    torch.save({"params": state}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"holds NaN or infinity in params: norm\.bias"):
        load_pretrained(tmp_path / "a.pth", **TINY)
