"""Files in the layout of the published code: its index buffers, nothing besides."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from contrast_arch.archs.network import PUBLISHED_INDEX_BUFFERS
from contrast_arch.cli import main
from contrast_arch.errors import InputError
from contrast_arch.weights import describe_pretrained, export, load_pretrained
from tests.conftest import TINY, load_reference
from tests.models.building import build, equal, options, weights
from tests.weights.conftest import finish
from tests.weights.test_load import output

HAT = {**TINY, "type": "HATLight", "upsampler": "pixelshuffle", "upscale_dims": 64, "overlap_ratio": 0.5}


@pytest.mark.parametrize("name", ["Contrast", "HATLight", "ContrastNoPE", "ContrastNoPENoCA", "MambaLight"])
def test_keys_are_those_of_the_published_code(tmp_path, name):
    """In the recorded networks; the indices are its own but for the sign, which wraps around the table."""
    config, state, *_ = load_reference(name)
    unused = ["ssm_act_layer", *(key for key in config if name == "HATLight" and key.startswith("ssm_"))]
    unused += ["overlap_ratio"] if name == "MambaLight" else []
    network_g = {"type": name} | {key: value for key, value in config.items() if key not in unused}
    folder = finish(tmp_path, network_g)[1]
    torch.save({"params": state}, folder / "models" / "net_g_latest.pth")
    file = export(folder, tmp_path, layout="published")
    found = load_file(file)
    table = (8 + 12 - 1) ** 2
    for key in set(PUBLISHED_INDEX_BUFFERS) & set(state):
        state[key] = state[key] % table
    assert equal(found, state)
    # The own layout of the same checkpoint has no index.
    assert not set(PUBLISHED_INDEX_BUFFERS) & set(load_file(export(folder, tmp_path)))


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


def test_what_is_refused(finished, capsys):
    root, _, folder, _ = finished
    with pytest.raises(InputError, match=r"layout='hat': expected 'own' or 'published'"):
        export(folder, root, layout="hat")
    with pytest.raises(InputError, match=r"one\.pth: expected .* \.safetensors file; layout 'published' writes \.pth"):
        export(folder, root / "one.pth")
    (root / "one.txt").touch()
    with pytest.raises(InputError, match=r"one\.txt: expected a folder or the name of a \.safetensors or \.pth file$"):
        export(folder, root / "one.txt", layout="published")
    assert main(["export", str(folder), str(folder), "--layout", "published", "-o", str(root / "one.pth")]) == 1
    assert "one.pth: 2 experiments need a folder, not one file" in capsys.readouterr().err
