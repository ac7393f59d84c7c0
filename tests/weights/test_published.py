"""Files in the layout of the published code: its index buffers, nothing besides."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from contrast_arch import ContrastV2
from contrast_arch.archs.network import CONFIG_TENSOR, is_loaded
from contrast_arch.cli import main
from contrast_arch.errors import InputError
from contrast_arch.weights import describe_pretrained, export, load_pretrained
from contrast_arch.weights.files import check_weights
from tests.conftest import RECORDED, TINY, load_reference
from tests.models.building import build, equal, options, weights
from tests.weights.conftest import finish
from tests.weights.test_load import output

HAT = {**TINY, "type": "HATLight", "upsampler": "pixelshuffle", "upscale_dims": 64, "overlap_ratio": 0.5}


@pytest.mark.parametrize("name", RECORDED)
def test_keys_are_those_of_the_published_code(tmp_path, name):
    """In the recorded networks, with all that it has beside the weights, to the bit."""
    config, state, *_ = load_reference(name)
    unused = ["ssm_act_layer", *(key for key in config if name == "HATLight" and key.startswith("ssm_"))]
    unused += ["overlap_ratio"] if name == "MambaLight" else []
    network_g = {"type": name} | {key: value for key, value in config.items() if key not in unused}
    folder = finish(tmp_path, network_g)[1]
    torch.save({"params": state}, folder / "models" / "net_g_latest.pth")
    file = export(folder, tmp_path, layout="published")
    assert equal(load_file(file), state)
    # The own layout of the same checkpoint has its weights alone, and the config.
    own = {key for key in state if is_loaded(key)}
    assert set(load_file(export(folder, tmp_path))) == own | {CONFIG_TENSOR}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_hat_loads_it(tmp_path, suffix):
    """Strictly, by HAT's own code as spandrel has it, and detected there."""
    from spandrel import ModelLoader
    from spandrel.architectures.HAT import HAT as PublishedHAT

    folder = finish(tmp_path, HAT, params=1, params_ema=2)[1]
    file = tmp_path / f"hat{suffix}"
    assert main(["export", str(folder), "--layout", "published", "-o", str(file)]) == 0
    expected = load_pretrained(file)
    assert expected.norm.bias[0] == 2 and equal(weights(load_pretrained(folder)), weights(expected))
    found = ModelLoader().load_from_file(file)
    assert isinstance(found.model, PublishedHAT)
    with torch.no_grad():
        # HAT pads outside of the network, in its pipeline.
        lq = torch.rand(1, 3, 12, 8)
        assert (found.model.eval()(lq) - expected(lq)).abs().max() < 1e-6


def test_a_pth_for_every_param_key(tmp_path):
    """BasicSR takes "params" where there are no averaged weights; the description lies beside."""
    folder, file = finish(tmp_path, params=1, params_ema=2)[1], tmp_path / "a.pth"
    assert export(folder, file, layout="published") == file
    content = torch.load(file, weights_only=True)
    assert set(content) == {"params", "params_ema", "contrast_arch"}
    assert content["params"]["norm.bias"][0] == content["params_ema"]["norm.bias"][0] == 2
    assert content["params"]["norm.bias"].data_ptr() == content["params_ema"]["norm.bias"].data_ptr()
    assert describe_pretrained(file)["network_g"] == TINY
    export(folder, file, weights="plain", layout="published")
    content = torch.load(file, weights_only=True)
    assert set(content) == {"params", "contrast_arch"} and content["params"]["norm.bias"][0] == 1
    # SRModel loads it, strictly, whatever is asked for.
    for key in ("params", "params_ema"):
        path = {"pretrain_network_g": str(file), "param_key_g": key}
        assert build(options(tmp_path, "SRModel", path=path)).net_g.norm.bias[0] == 1


def test_the_network_of_a_published_file(tmp_path):
    """Its windows are read from the index where a converter has dropped the metadata."""
    network_g = {**TINY, "window_size": 6, "overlap_ratio": 1.0}
    file = export(finish(tmp_path, network_g)[1], tmp_path, layout="published")
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["network_g"]
    torch.save(load_file(file), tmp_path / "b.pth")
    with pytest.warns(UserWarning, match=r"defaults: img_range=1\.0, mlp_act_layer"):
        found = load_pretrained(tmp_path / "b.pth")
    assert torch.equal(output(found), output(load_pretrained(file)))


def test_an_aligned_bias_is_not_that_of_the_published_code(tmp_path):
    """Neither is written for that code, nor taken from its files."""
    folder = finish(tmp_path, {**TINY, "type": "ContrastV2"})[1]
    with pytest.raises(InputError, match=r"/A: network_g: aligned_bias: true: .* layout 'own', or train with") as error:
        export(folder, tmp_path / "a.pth", layout="published")
    assert "\n" not in str(error.value) and not (tmp_path / "a.pth").exists()
    config, state, *_ = load_reference("ContrastV2")
    torch.save(state, tmp_path / "b.pth")
    for strict in (True, False):
        with pytest.raises(InputError, match=r"b\.pth is of the published code, .*; write aligned_bias: false"):
            check_weights(tmp_path / "b.pth", state, ContrastV2(**{**config, "aligned_bias": True}), strict)
    with pytest.raises(InputError, match="write aligned_bias: false"):
        load_pretrained(tmp_path / "b.pth", type="ContrastV2", **{**config, "aligned_bias": True})
    assert load_pretrained(tmp_path / "b.pth", type="ContrastV2", **config).aligned_bias is False


def test_what_is_refused(finished, capsys):
    root, _, folder, _ = finished
    (root / "one.txt").touch()
    with pytest.raises(
        InputError,
        match=r"one\.txt: expected a folder or, in layout .published., the name of a \.safetensors or \.pth file$",
    ):
        export(folder, root / "one.txt", layout="published")
    assert main(["export", str(folder), str(folder), "--layout", "published", "-o", str(root / "one.pth")]) == 1
    assert "one.pth: 2 experiments need a folder, not one file" in capsys.readouterr().err
