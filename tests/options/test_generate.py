"""Option files from one table: those that are committed, byte for byte, and one for a user's own choice."""

import itertools
import os
from pathlib import Path

import pytest
import torch

from contrast_arch.check import RunContext, build_on_meta, find_problems, read_options
from contrast_arch.cli import main
from contrast_arch.networks import NETWORKS
from contrast_arch.options.generate import Choice, shipped_files, write_one
from tests.conftest import ROOT

CHOSEN = "--network ContrastV2 --size S --scale 2 --data my_folder --batch 4 --model ContrastModel"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_committed_files_are_those_of_the_table(tmp_path):
    assert main(["options"]) == 0
    committed, written = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (ROOT / "options", tmp_path / "options")
    )
    assert len(committed) > 90 and sorted(written) == sorted(committed)
    assert [name for name in committed if written[name] != committed[name]] == []


def test_a_file_of_ones_own_choice(capsys, tmp_path):
    assert main(["options", *CHOSEN.split()]) == 0
    path = "train_ContrastV2_S_SRx2_from_scratch.yml"
    assert capsys.readouterr().out == f"option file written to {path}\n"
    lines = Path(path).read_text().splitlines()
    schema = lines[0].removeprefix("# yaml-language-server: $schema=")
    assert not os.path.isabs(schema) and (tmp_path / schema).resolve() == ROOT / "options" / "schema.json"
    assert lines[1] == "# ContrastV2, the paper's network, S: X2 from scratch on my_folder, by the paper's recipe."
    assert lines[2] == "# Keys that differ from BasicSR's defaults: docs/options.md."
    found, shipped = read_options(path), read_options(str(ROOT / "options" / "train" / path))
    train = found["datasets"]["train"]
    assert train["name"] == "my_folder" and train["dataroot_gt"] == "my_folder/HR"
    assert train["dataroot_lq"] == "my_folder/LR_bicubic/X2" and train["meta_info_file"] == "my_folder/meta_info.txt"
    # 48,000 images, as at batch 8.
    assert found["val"]["val_freq"] == found["logger"]["save_checkpoint_freq"] == 12_000
    assert "val_freq: 12000  # 48,000 images at batch 4 on one GPU" in "\n".join(lines)
    assert (found["model_type"], train["batch_size_per_gpu"]) == ("ContrastModel", 4)
    found["model_type"], found["val"]["val_freq"], found["logger"]["save_checkpoint_freq"] = "SRModel", 6000, 6000
    for key in ("name", "dataroot_gt", "dataroot_lq", "meta_info_file", "batch_size_per_gpu"):
        train[key] = shipped["datasets"]["train"][key]
    assert found == shipped


def test_a_choice_that_ships_is_the_file_that_ships(tmp_path):
    shipped = shipped_files()
    for network, scale, start in itertools.product(NETWORKS, (2, 3, 4), ("scratch", "finetune")):
        for size in NETWORKS[network].sizes:
            if (scale, start) != (2, "finetune"):
                path = write_one(network=network, size=size, scale=scale, start=start)
                text = path.read_text()
                ships = shipped.get(f"train/{path.name}", text)
                assert text.partition("\nname: ")[2] == ships.partition("\nname: ")[2]
    assert len(list(tmp_path.iterdir())) == 5 * sum(len(network.sizes) for network in NETWORKS.values())
    # One that does not ship.
    options = read_options("train_HATLight_light_SRx3_finetune_from_SRx2.yml")
    x2 = "experiments/train_HATLight_light_SRx2_from_scratch/models/net_g_latest.pth"
    assert options["path"]["pretrain_network_g"] == x2 and options["datasets"]["train"]["gt_size"] == 192
    net = build_on_meta(options["network_g"])
    assert net(torch.empty(1, 3, 20, 24, device="meta")).shape == (1, 3, 60, 72)
    # The size is the first unless given.
    names = Choice("ContrastV2").name, Choice("Contrast").name
    assert names == ("train_ContrastV2_S_SRx4_from_scratch", "train_Contrast_SRx4_from_scratch")


def test_the_published_comparison_is_named_where_it_is_one():
    """Not with another batch or other data."""
    said = "X4 from scratch on LSDIR + DF2K, as the published comparison ran it."
    for number, (given, is_said) in enumerate([({}, True), ({"batch": 4}, False), ({"data": "a"}, False)]):
        assert (said in write_one(f"{number}.yml", network="Contrast", **given).read_text()) is is_said


@pytest.mark.parametrize(
    "name", ["123", "null", "No", "1e5", "my data", "a: b #c", "it's", 'a"b', "~", "été", "$x", "a\x07\u2028b"]
)
def test_names_that_yaml_would_read_otherwise(name):
    path = write_one(f"{name}.yml", network="Contrast", data=f"data/{name}")
    assert path.name == f"{name}.yml"
    options = read_options(str(path))
    train = options["datasets"]["train"]
    assert (options["name"], train["name"], train["dataroot_gt"]) == (name, name, f"data/{name}/HR")
    bare = read_options(str(write_one("bare.yml", network="Contrast", data=name)))["datasets"]["train"]
    assert (bare["name"], bare["dataroot_lq"]) == (name, f"{name}/LR_bicubic/X4")


def test_what_is_missing_is_the_data_alone():
    """Checked as ``contrast-arch check`` does: the folders are not there, and nothing else is found."""
    write_one("a.yml", network="Contrast", size="light", scale=2, data="my_folder", batch=7)
    problems = [problem.message for problem in find_problems("a.yml", RunContext(True, force_yml=["num_gpu=0"]))]
    assert problems and all("does not exist" in problem for problem in problems)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--network HAT", "--network HAT: expected one of Contrast, ContrastNoPE, ContrastNoPE_ssm_ratio2,"),
        ("--network ContrastV2 --size XL", "--size XL: expected one of S, base, L, light"),
        ("--network HATLight --size S", "--size S: expected one of light"),
        ("--network Contrast --scale 8", "--scale 8: expected one of 2, 3, 4 for --start scratch"),
        ("--network Contrast --scale 2 --start finetune", "--scale 2: expected one of 3, 4 for --start finetune"),
        ("--network Contrast --batch 0", "--batch 0: expected 1 or more"),
        ("--network Contrast -o here/is.yml/a.yml", "here/is.yml: "),
        ("--scale 2", "--scale is for one file of your own choice: name its --network too"),
        ("-o taken.yml --network Contrast", "taken.yml exists already; name another file with --output"),
        ("-o a.yml", "--output is for one file of your own choice: name its --network too"),
        ("--folder here", "here exists already; name a new folder with --folder"),
    ],
)
def test_refusals(arguments, message, tmp_path, capsys):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "is.yml").touch()
    (tmp_path / "taken.yml").write_text("mine")
    assert main(["options", *arguments.split(" ")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["here", "is.yml", "taken.yml"]
    assert (tmp_path / "taken.yml").read_text() == "mine"
