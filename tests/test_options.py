"""Every option file that ships: read as BasicSR reads it, its network built, and held equal to the others."""

import functools
import json
import re
from pathlib import Path

import pytest
import torch

from contrast_arch.archs.contrast_arch import ContrastV2
from contrast_arch.check import build_on_meta, forced, read_options
from contrast_arch.errors import InputError
from contrast_arch.networks import NETWORKS
from contrast_arch.weights.files import check_weights
from tests.conftest import ROOT

TRAIN = sorted((ROOT / "options" / "train").glob("*.yml"))
TEST = sorted((ROOT / "options" / "test").glob("*.yml"))
NAME = re.compile(r"(train|test)_(\w+?)(_light)?_SRx([234])(_from_scratch|_finetune_from_SRx2)?")
COMPARED = [name for name, network in NETWORKS.items() if not network.paper]
# Of the paper, with its recipe.
PAPER = [f"{name}_{size}" for name, network in NETWORKS.items() if network.paper for size in network.sizes]
STARTS = {("", scale, "_from_scratch") for scale in "234"} | {("", scale, "_finetune_from_SRx2") for scale in "34"}
PARAMETERS = {
    "Contrast": 1_491_300,
    "ContrastNoPE": 1_454_796,
    "ContrastNoPE_ssm_ratio2": 1_718_316,
    "ContrastNoPENoCA": 1_577_388,
    "MambaLight": 1_493_508,
    "HATLight": 1_717_524,
    "Contrast_light": 745_572,
    "ContrastNoPE_light": 718_194,
    "ContrastNoPE_ssm_ratio2_light": 849_522,
    "ContrastNoPENoCA_light": 764_202,
    "MambaLight_light": 736_704,
    "HATLight_light": 771_099,
    "ContrastV2_light": 430_710,
    "ContrastV2_S": {"2": 7_402_295, "3": 7_586_935, "4": 7_550_007},
    "ContrastV2_base": {"2": 14_145_785, "3": 14_330_425, "4": 14_293_497},
    "ContrastV2_L": {"2": 146_953_355, "3": 147_137_995, "4": 147_101_067},
}


def parts(path: Path) -> tuple[str, str, str, str]:
    """Network, "_light" or "", scale, and where it starts ("" in files for testing)."""
    _, network, light, scale, start = NAME.fullmatch(path.stem).groups()
    return network, light or "", scale, start or ""


@pytest.mark.parametrize("network", COMPARED)
def test_every_network_has_every_file(network):
    found = [parts(path)[1:] for path in TRAIN if parts(path)[0] == network]
    light = [("_light", "4")] * ("light" in NETWORKS[network].sizes)
    assert sorted(found) == sorted([*STARTS, *((*size, "_from_scratch") for size in light)])
    found = [parts(path)[1:] for path in TEST if parts(path)[0] == network]
    assert sorted(found) == [("", "2", ""), ("", "3", ""), ("", "4", ""), *((*size, "") for size in light)]


@pytest.mark.parametrize("network", PAPER)
def test_every_size_of_the_paper_has_every_file(network):
    found = {parts(path)[2:] for path in TRAIN if "".join(parts(path)[:2]) == network}
    assert found == {start[1:] for start in STARTS}
    assert {parts(path)[2] for path in TEST if "".join(parts(path)[:2]) == network} == {"2", "3", "4"}


def test_there_are_no_others():
    names = {"".join(parts(path)[:2]) for path in TRAIN + TEST}
    assert names == {"_".join(filter(None, (name, size))) for name in NETWORKS for size in NETWORKS[name].sizes}


@functools.cache
def counted(network_g: str) -> tuple:
    """Width, number of parameters, and output of 20x24 pixels; once for files with one network_g."""
    net = build_on_meta(json.loads(network_g))
    shape = tuple(net(torch.empty(1, 3, 20, 24, device="meta")).shape)
    return net.conv_first.out_channels, sum(p.numel() for p in net.parameters()), shape


@pytest.mark.parametrize("path", TRAIN + TEST, ids=lambda p: p.stem)
def test_reads_and_builds(path):
    options = read_options(str(path))
    network, light, scale, _ = parts(path)
    assert options["name"] == path.stem
    width, parameters, shape = counted(json.dumps(options["network_g"]))
    expected = PARAMETERS[network + light]
    if isinstance(expected, dict):
        expected = expected[scale]
    else:
        # The upsampler is one convolution to 3 * scale**2 channels.
        expected += 3 * (int(scale) ** 2 - 4**2) * (9 * width + 1)
    assert parameters == expected
    assert shape == (1, 3, 20 * int(scale), 24 * int(scale))


@pytest.mark.parametrize("path", TRAIN + TEST, ids=lambda p: p.stem)
def test_scale_is_in_one_place(path):
    options = read_options(str(path))
    scale = int(parts(path)[2])
    assert options["network_g"]["upscale"] == options["scale"] == scale
    assert all(m["crop_border"] == scale and m["test_y_channel"] for m in options["val"]["metrics"].values())
    text = path.read_text()
    assert text.count(f"&scale {scale}") == 1 and text.count("*scale") == 3
    for dataset in options["datasets"].values():
        assert dataset["dataroot_lq"].endswith(f"/LR_bicubic/X{scale}")
        assert dataset["filename_tmpl"] == "{}x" + str(scale)
    if "train" in options["datasets"]:
        assert options["datasets"]["train"]["gt_size"] == 64 * scale


def common(path):
    """Options that must be the same in all files of a folder, and network_g."""
    options = read_options(str(path))
    network, light, scale, start = parts(path)
    name = f"{network}{light}_SRx{scale}"
    del options["scale"]
    built = options.pop("network_g")
    options["name"] = options["name"].replace(name + start, "NAME")
    for dataset in options["datasets"].values():
        dataset["dataroot_lq"] = dataset["dataroot_lq"].removesuffix(scale)
        dataset["filename_tmpl"] = dataset["filename_tmpl"].removesuffix(scale)
        dataset.pop("gt_size", None)
    for metric in options["val"]["metrics"].values():
        del metric["crop_border"]
    if "train" in options:
        # Held by test_recipes.
        for key in ("optim_g", "scheduler", "pixel_opt"):
            del options["train"][key]
        # Held by test_fine_tuning_starts_from_x2.
        del options["train"]["total_iter"], options["path"]["strict_load_g"], options["path"]["pretrain_network_g"]
    else:
        options["path"]["pretrain_network_g"] = options["path"]["pretrain_network_g"].replace(name, "NAME")
    del built["upscale"]
    return options, built


@pytest.mark.parametrize("paths", [TRAIN, TEST], ids=["train", "test"])
def test_files_differ_in_what_their_name_says(paths):
    first, _ = common(paths[0])
    networks = {}
    for path in paths:
        rest, built = common(path)
        assert rest == first, path
        assert networks.setdefault(parts(path)[:2], built) == built, path


def test_training_and_tests_build_the_same_network():
    train, test = ({parts(path)[:3]: common(path)[1] for path in paths} for paths in (TRAIN, TEST))
    assert train == test


def test_training_is_the_published_comparison():
    options = read_options(str(ROOT / "options" / "train" / "train_Contrast_SRx4_from_scratch.yml"))
    train = options["datasets"]["train"]
    assert options["train"]["optim_g"] == {"type": "Adam", "lr": 2e-4}
    assert options["train"]["pixel_opt"]["type"] == "MSELoss"
    assert (train["batch_size_per_gpu"], train["gt_size"], options["scale"]) == (8, 256, 4)
    assert train["use_hflip"] and train["use_rot"]
    assert train["meta_info_file"] == "datasets/LSDIR_DF2K/meta_info.txt"
    assert options["logger"]["save_checkpoint_freq"] == options["val"]["val_freq"] == 48_000 // 8
    assert [options["datasets"][key]["name"] for key in ("val_1", "val_2")] == ["Set5", "Set14"]


def test_recipes():
    """That of the comparison, and that of the paper; HAT's where it is fine-tuned."""
    for path in TRAIN:
        network, light, _, start = parts(path)
        train = read_options(str(path))["train"]
        found = (
            train["pixel_opt"]["type"],
            train["optim_g"]["lr"],
            train["optim_g"].get("betas"),
            train["scheduler"]["milestones"],
        )
        assert (train["optim_g"]["type"], train["scheduler"]["type"]) == ("Adam", "MultiStepLR")
        assert train["scheduler"]["gamma"] == 0.5
        if network + light not in PAPER:
            assert found == ("MSELoss", 2e-4, None, [])
        elif start == "_from_scratch":
            assert found == ("L1Loss", 2e-4, [0.9, 0.99], [250_000, 400_000, 450_000, 475_000])
        else:
            assert found == ("L1Loss", 1e-4, [0.9, 0.99], [125_000, 200_000, 225_000, 240_000])


def test_the_large_network_saves_memory_and_starts():
    """147 million parameters: gradient checkpointing. Its first block, at its width, makes a step on the CPU."""
    files = [path for path in TRAIN + TEST if parts(path)[0] == "ContrastV2_L"]
    assert len(files) == 8 and all(read_options(str(path))["network_g"]["use_checkpoint"] for path in files)
    assert all("several GPUs, see docs/cluster.md" in path.read_text() for path in files if path in TRAIN)
    options = read_options(str(files[-1]))["network_g"]
    net = ContrastV2(**{k: v for k, v in options.items() if k != "type"} | {"depths": [1], "num_heads": [6]})
    group = net.layers[0].residual_group
    x = torch.randn(1, 32, 32, 600, requires_grad=True)
    group(x).sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in group.parameters())


def test_fine_tuning_starts_from_x2():
    for path in TRAIN:
        network, light, _, start = parts(path)
        options = read_options(str(path))
        found = options["path"]["pretrain_network_g"], options["path"]["strict_load_g"], options["train"]["total_iter"]
        if start == "_from_scratch":
            assert found == (None, True, 500_000)
        else:
            checkpoint = f"experiments/train_{network}{light}_SRx2_from_scratch/models/net_g_latest.pth"
            assert found == (checkpoint, False, 250_000)


def test_tests_read_what_training_wrote():
    for path in TEST:
        network, light, scale, _ = parts(path)
        checkpoint = read_options(str(path))["path"]["pretrain_network_g"]
        assert checkpoint == f"experiments/train_{network}{light}_SRx{scale}_from_scratch/models/net_g_latest.pth"
    sets = [d["name"] for d in read_options(str(TEST[0]))["datasets"].values()]
    assert sets == ["Set5", "Set14", "BSD100", "Urban100", "Manga109"]


@pytest.mark.parametrize("scale", [3, 4])
def test_weights_of_x2_fit_but_for_the_upsampler(scale, tmp_path):
    """As BasicSR loads them: strict_load_g false, parameters of another shape left as they are."""
    from basicsr.models.sr_model import SRModel

    small = {"dims": 12, "depths": [1], "num_heads": [2], "window_size": 8}
    x2, other = (
        build_on_meta({**read_options(str(ROOT / "options" / "train" / f"{name}.yml"))["network_g"], **small}).to_empty(
            device="cpu"
        )
        for name in ("train_Contrast_SRx2_from_scratch", f"train_Contrast_SRx{scale}_finetune_from_SRx2")
    )
    for net, value in ((x2, 2.0), (other, 1.0)):
        for parameter in net.parameters():
            torch.nn.init.constant_(parameter, value)
    torch.save({"params": x2.state_dict()}, tmp_path / "x2.pth")
    check_weights("x2.pth", x2.state_dict(), other, strict=False)
    model = SRModel.__new__(SRModel)
    model.load_network(other, str(tmp_path / "x2.pth"), strict=False)
    changed = {name for name, parameter in other.named_parameters() if (parameter == 2).all()}
    kept = {name for name, parameter in other.named_parameters() if (parameter == 1).all()}
    assert kept == {name for name in kept if name.startswith("upsample.")} != set()
    assert changed | kept == set(dict(other.named_parameters()))


def test_weights_of_another_network_are_not_fine_tuned():
    net = build_on_meta({"type": "Contrast"})
    with pytest.raises(InputError, match=r"a\.pth has none of the weights of this network_g \(Contrast\)"):
        check_weights("a.pth", {"layer.weight": torch.zeros(3)}, net, strict=False)


def test_changes_as_basicsr_reads_them():
    options = {"train": {"total_iter": 1, "lr": 2.0}, "val": {"save_img": False}, "name": "a"}
    changes = ["train:total_iter=20", "train:lr=!!float 1e-4", "val:save_img=true", "name=b"]
    assert forced(options, changes) == {
        "train": {"total_iter": 20, "lr": 1e-4},
        "val": {"save_img": True},
        "name": "b",
    }
    assert options["name"] == "a"
    with pytest.raises(InputError, match="the option file has no section 'trian'"):
        forced(options, ["trian:total_iter=1"])


def test_yaml_builds_what_the_published_call_builds(tmp_path):
    """Names for classes, a float for d_state, as published option files write them."""
    (tmp_path / "a.yml").write_text(
        "network_g:\n  type: Contrast\n  norm_layer: LayerNorm\n  ssm_act_layer: gelu\n  ssm_d_state: 1.0\n"
        "  ssm_dt_rank: auto\n  img_range: 1.\n  depths: [6, 6, 6, 6]\n  posembed: false\n"
    )
    net = build_on_meta(read_options(str(tmp_path / "a.yml"))["network_g"])
    assert str(net) == str(build_on_meta({"type": "Contrast"}))
