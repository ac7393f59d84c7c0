"""Every option file that ships: read as BasicSR reads it, its network built, and held equal to the others."""

import re
from pathlib import Path

import pytest
import torch

from contrast_arch.preflight import check_network, read_options
from tests.conftest import ROOT

TRAIN = sorted((ROOT / "options" / "train").glob("*.yml"))
TEST = sorted((ROOT / "options" / "test").glob("*.yml"))
NAMES = ["Contrast", "ContrastNoPE", "ContrastNoPENoCA", "ContrastNoPE_ssm_ratio2", "HATLight", "MambaLight"]
PARAMETERS = {
    "Contrast": 1_491_300,
    "ContrastNoPE": 1_454_796,
    "ContrastNoPE_ssm_ratio2": 1_718_316,
    "ContrastNoPENoCA": 1_577_388,
    "MambaLight": 1_493_508,
    "HATLight": 1_717_524,
}


def network_name(path: Path) -> str:
    return re.fullmatch(r"(?:train|test)_(.*)_SRx\d(?:_from_scratch)?\.yml", path.name)[1]


def test_the_six_networks_have_both_files():
    assert sorted(map(network_name, TRAIN)) == sorted(NAMES)
    assert sorted(map(network_name, TEST)) == sorted(NAMES)


@pytest.mark.parametrize("path", TRAIN + TEST, ids=lambda p: p.stem)
def test_reads_and_builds(path):
    options = read_options(str(path))
    assert options["name"] == path.stem
    net = check_network(options["network_g"])
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[network_name(path)]
    assert net(torch.empty(1, 3, 20, 24, device="meta")).shape == (1, 3, 80, 96)


@pytest.mark.parametrize("path", TRAIN + TEST, ids=lambda p: p.stem)
def test_scale_is_in_one_place(path):
    options = read_options(str(path))
    assert options["network_g"]["upscale"] == options["scale"] == 4
    assert all(metric["crop_border"] == 4 and metric["test_y_channel"] for metric in options["val"]["metrics"].values())
    text = path.read_text()
    assert text.count("&scale 4") == 1 and text.count("*scale") == 3


@pytest.mark.parametrize("paths", [TRAIN, TEST], ids=["train", "test"])
def test_files_differ_in_name_and_network_only(paths):
    def rest(path):
        options = read_options(str(path))
        name = network_name(path)
        del options["network_g"]
        options["name"] = options["name"].replace(f"_{name}_", "_NETWORK_")
        checkpoint = options["path"]["pretrain_network_g"]
        if checkpoint is not None:
            options["path"]["pretrain_network_g"] = checkpoint.replace(f"_{name}_", "_NETWORK_")
        return options

    first = rest(paths[0])
    assert all(rest(path) == first for path in paths[1:])


def test_training_is_the_published_comparison():
    options = read_options(str(TRAIN[0]))
    train = options["datasets"]["train"]
    assert options["train"]["optim_g"] == {"type": "Adam", "lr": 2e-4}
    assert options["train"]["pixel_opt"]["type"] == "MSELoss"
    assert (train["batch_size_per_gpu"], train["gt_size"], options["scale"]) == (8, 256, 4)
    assert train["use_hflip"] and train["use_rot"]
    assert options["logger"]["save_checkpoint_freq"] == options["val"]["val_freq"] == 48_000 // 8
    assert [options["datasets"][key]["name"] for key in ("val_1", "val_2")] == ["Set5", "Set14"]


def test_tests_read_what_training_wrote():
    for path in TEST:
        name = f"train_{network_name(path)}_SRx4_from_scratch"
        checkpoint = read_options(str(path))["path"]["pretrain_network_g"]
        assert checkpoint == f"experiments/{name}/models/net_g_latest.pth"
    sets = [d["name"] for d in read_options(str(TEST[0]))["datasets"].values()]
    assert sets == ["Set5", "Set14", "BSD100", "Urban100", "Manga109"]


def test_yaml_builds_what_the_published_call_builds(tmp_path):
    """Names for classes, a float for d_state, as published option files write them."""
    (tmp_path / "a.yml").write_text(
        "network_g:\n  type: Contrast\n  norm_layer: LayerNorm\n  ssm_act_layer: gelu\n  ssm_d_state: 1.0\n"
        "  ssm_dt_rank: auto\n  img_range: 1.\n  depths: [6, 6, 6, 6]\n  posembed: false\n"
    )
    net = check_network(read_options(str(tmp_path / "a.yml"))["network_g"])
    assert str(net) == str(check_network({"type": "Contrast"}))
