"""Every option file that ships: read as BasicSR reads it, its network built, and held equal to the others."""

import functools
import json
import re

import pytest
import torch

from contrast_arch.archs.contrast_arch import ContrastV2
from contrast_arch.check import build_on_meta, read_options
from contrast_arch.errors import InputError
from contrast_arch.networks import NETWORKS
from contrast_arch.weights.files import check_weights
from tests.conftest import ROOT

NAME = re.compile(r"(train|test)_(\w+?)_SRx([234])(_from_scratch|_finetune_from_SRx2)?")
FILES = {path.stem: path for path in sorted((ROOT / "options").rglob("*.yml"))}
# Of the paper, with its recipe.
PAPER = [f"{name}_{size}" for name, network in NETWORKS.items() if network.paper for size in network.sizes]
SIZES = ["_".join(filter(None, (name, size))) for name, network in NETWORKS.items() for size in network.sizes]
# As published, or counted once.
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


@functools.cache
def text_of(name):
    return json.dumps(read_options(str(FILES[name])))


def loaded(kind):
    """Network and size, scale, start and options of each file of a kind."""
    for name in FILES:
        file_kind, network, scale, start = NAME.fullmatch(name).groups()
        if file_kind == kind:
            yield name, network, scale, start or "", json.loads(text_of(name))


def test_every_network_has_every_file():
    starts = {("2", "_from_scratch")} | {(s, start) for s in "34" for start in ("_from_scratch", "_finetune_from_SRx2")}
    for network in SIZES:
        alone = network.endswith("_light") and network not in PAPER
        train = {(scale, start) for _, other, scale, start, _ in loaded("train") if other == network}
        assert train == ({("4", "_from_scratch")} if alone else starts), network
        assert {scale for _, other, scale, *_ in loaded("test") if other == network} == set("4" if alone else "234")
    assert {network for kind in ("train", "test") for _, network, *_ in loaded(kind)} == set(SIZES) >= set(PARAMETERS)


@pytest.mark.parametrize("network", SIZES)
def test_reads_and_builds(network):
    """Training and tests build the same network, and the scale stands in one place."""
    built = {}
    for kind in ("train", "test"):
        for name, other, scale, _, options in loaded(kind):
            if other != network:
                continue
            assert options["name"] == name
            factor, network_g = int(scale), options["network_g"]
            if scale not in built:
                net, expected = build_on_meta(network_g), PARAMETERS.get(network)
                if isinstance(expected, dict):
                    expected = expected[scale]
                elif expected:
                    # The upsampler is one convolution to 3 * scale**2 channels.
                    expected += 3 * (factor**2 - 4**2) * (9 * net.conv_first.out_channels + 1)
                assert expected in (None, sum(p.numel() for p in net.parameters()))
            assert built.setdefault(scale, network_g) == network_g
            assert options["network_g"]["upscale"] == options["scale"] == factor
            metrics = options["val"]["metrics"].values()
            assert all(metric["crop_border"] == factor and metric["test_y_channel"] for metric in metrics)
            text = FILES[name].read_text()
            assert text.count(f"&scale {scale}") == 1 and text.count("*scale") == 3
            for dataset in options["datasets"].values():
                assert dataset["dataroot_lq"].endswith(f"/LR_bicubic/X{scale}")
                assert dataset["filename_tmpl"] == "{}x" + scale
            assert kind == "test" or options["datasets"]["train"]["gt_size"] == 64 * factor
    assert net(torch.empty(1, 3, 20, 24, device="meta")).shape == (1, 3, 20 * net.upscale, 24 * net.upscale)


def common(name, network, scale, start, options):
    """Options that must be the same in all files of a folder, and network_g."""
    del options["scale"]
    built = options.pop("network_g")
    options["name"] = options["name"].replace(f"{network}_SRx{scale}{start}", "NAME")
    for dataset in options["datasets"].values():
        dataset["dataroot_lq"] = dataset["dataroot_lq"].removesuffix(scale)
        dataset["filename_tmpl"] = dataset["filename_tmpl"].removesuffix(scale)
        dataset.pop("gt_size", None)
    for metric in options["val"]["metrics"].values():
        del metric["crop_border"]
    # Held by test_recipes.
    for key in ("optim_g", "scheduler", "pixel_opt", "total_iter"):
        options.get("train", {}).pop(key, None)
    del options["path"]["strict_load_g"], options["path"]["pretrain_network_g"], built["upscale"]
    return options, built


@pytest.mark.parametrize("kind", ["train", "test"])
def test_files_differ_in_what_their_name_says(kind):
    found, networks = [], {}
    for file in loaded(kind):
        rest, built = common(*file)
        found.append(rest)
        assert networks.setdefault(file[1], built) == built, file[0]
    assert all(rest == found[0] for rest in found)


def test_training_is_the_published_comparison():
    options = read_options(str(FILES["train_Contrast_SRx4_from_scratch"]))
    train = options["datasets"]["train"]
    assert options["train"]["optim_g"] == {"type": "Adam", "lr": 2e-4}
    assert options["train"]["pixel_opt"]["type"] == "MSELoss"
    assert (train["batch_size_per_gpu"], train["gt_size"], options["scale"]) == (8, 256, 4)
    assert train["use_hflip"] and train["use_rot"]
    assert train["meta_info_file"] == "datasets/LSDIR_DF2K/meta_info.txt"
    assert options["logger"]["save_checkpoint_freq"] == options["val"]["val_freq"] == 48_000 // 8
    assert [options["datasets"][key]["name"] for key in ("val_1", "val_2")] == ["Set5", "Set14"]


def test_recipes():
    """That of the comparison, and that of the paper; HAT's where it is fine-tuned, from the weights of X2."""
    for name, network, _, start, options in loaded("train"):
        train, path = options["train"], options["path"]
        fresh, paper = start == "_from_scratch", network in PAPER
        milestones = [250_000, 400_000, 450_000, 475_000] if fresh else [125_000, 200_000, 225_000, 240_000]
        optimizer = {"type": "Adam", "lr": 2e-4 if fresh or not paper else 1e-4}
        assert train["optim_g"] == optimizer | ({"betas": [0.9, 0.99]} if paper else {}), name
        assert train["scheduler"] == {"type": "MultiStepLR", "milestones": milestones if paper else [], "gamma": 0.5}
        assert train["pixel_opt"]["type"] == ("L1Loss" if paper else "MSELoss")
        assert (path["strict_load_g"], train["total_iter"]) == ((True, 500_000) if fresh else (False, 250_000))
        x2 = f"experiments/train_{network}_SRx2_from_scratch/models/net_g_latest.pth"
        assert path["pretrain_network_g"] == (None if fresh else x2)
    for _, network, scale, _, options in loaded("test"):
        checkpoint = f"experiments/train_{network}_SRx{scale}_from_scratch/models/net_g_latest.pth"
        assert (options["path"]["pretrain_network_g"], options["path"]["strict_load_g"]) == (checkpoint, True)
        sets = [dataset["name"] for dataset in options["datasets"].values()]
        assert sets == ["Set5", "Set14", "BSD100", "Urban100", "Manga109"]


def test_the_large_network_saves_memory_and_starts():
    """147 million parameters: gradient checkpointing. A block at its width, with a smaller window, makes a step."""
    files = [
        (name, options) for kind in ("train", "test") for name, network, *_, options in loaded(kind) if "V2_L" in name
    ]
    assert len(files) == 8 and all(options["network_g"]["use_checkpoint"] for _, options in files)
    assert all("several GPUs, see docs/cluster.md" in FILES[name].read_text() for name, _ in files[:5])
    arguments = {key: value for key, value in files[0][1]["network_g"].items() if key != "type"}
    net = ContrastV2(**arguments | {"depths": [1], "num_heads": [6], "window_size": 8, "img_size": 8})
    group = net.layers[0]
    x = torch.randn(1, 8, 8, 600, requires_grad=True)
    group(x).sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in group.parameters())


def test_weights_of_x2_fit_but_for_the_upsampler(tmp_path):
    """As BasicSR loads them: strict_load_g false, parameters of another shape left as they are."""
    from basicsr.models.sr_model import SRModel

    small = {"dims": 12, "depths": [1], "num_heads": [2], "window_size": 8}
    x2, other = (
        build_on_meta(read_options(str(FILES[f"train_Contrast_{name}"]))["network_g"] | small).to_empty(device="cpu")
        for name in ("SRx2_from_scratch", "SRx3_finetune_from_SRx2")
    )
    for net, value in ((x2, 2.0), (other, 1.0)):
        for parameter in net.parameters():
            torch.nn.init.constant_(parameter, value)
    torch.save({"params": x2.state_dict()}, tmp_path / "x2.pth")
    check_weights("x2.pth", x2.state_dict(), other, strict=False)
    SRModel.__new__(SRModel).load_network(other, str(tmp_path / "x2.pth"), strict=False)
    kept = {name for name, parameter in other.named_parameters() if (parameter == 1).all()}
    assert kept == {name for name, _ in other.named_parameters() if name.startswith("upsample.")} != set()
    assert all((parameter == 2).all() for name, parameter in other.named_parameters() if name not in kept)
    with pytest.raises(InputError, match=r"a\.pth was not saved from this network_g \(Contrast\)"):
        check_weights("a.pth", {"layer.weight": torch.zeros(3)}, other, strict=False)


def test_yaml_builds_what_the_published_call_builds(tmp_path):
    """Names for classes, a float for d_state, as published option files write them."""
    (tmp_path / "a.yml").write_text(
        "network_g:\n  type: Contrast\n  norm_layer: LayerNorm\n  ssm_act_layer: gelu\n  ssm_d_state: 1.0\n"
        "  ssm_dt_rank: auto\n  img_range: 1.\n  depths: [6, 6, 6, 6]\n  posembed: false\n"
    )
    net = build_on_meta(read_options(str(tmp_path / "a.yml"))["network_g"])
    assert str(net) == str(build_on_meta({"type": "Contrast"}))
