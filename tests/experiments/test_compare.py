"""Experiments under one budget: what they are run with, what an earlier call leaves, and what does not fit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from contrast_arch.cli import main
from contrast_arch.errors import InputError
from contrast_arch.experiments import compare
from contrast_arch.experiments.compare import Experiment, plan
from contrast_arch.experiments.records import read_run
from contrast_arch.launch import launch
from tests.conftest import ROOT, TINY, tiny_options, write_pairs
from tests.experiments.writing import Start

SHIPPED = str(ROOT / "options" / "train" / "train_Contrast_SRx4_from_scratch.yml")


def write(root, name, **changes):
    (root / f"{name}.yml").write_text(yaml.safe_dump(tiny_options(root, name=name, **changes)))
    return f"{name}.yml"


@pytest.mark.parametrize("gpus, interval", [(0, 6000), (1, 6000), (4, 1500), (5, 1200)])
def test_images_between_checkpoints_stay_the_same(gpus, interval):
    """Batch 8 on each GPU."""
    found = plan(SHIPPED, 480_000, 48_000, (), gpus)
    assert (found.images, found.options["num_gpu"], found.total) == (480_000, gpus, 10 * interval)
    assert found.options["logger"]["save_checkpoint_freq"] == found.options["val"]["val_freq"] == interval
    assert found.options["logger"]["print_freq"] == min(100, interval // 50)


def test_images_of_an_iteration():
    changes = ["model_type=ContrastModel", "train:accumulate=4"]
    found = plan(SHIPPED, 96_000, 48_000, changes, gpus=2)
    assert (found.images, found.total, found.options["val"]["val_freq"]) == (64 * 1500, 1500, 750)
    assert plan(SHIPPED, 96_000, 48_000, changes[1:]).total == 12_000
    with pytest.raises(InputError, match="train: accumulate: 0: expected a whole number of at least 1"):
        plan(SHIPPED, 96_000, 48_000, ["model_type=ContrastModel", "train:accumulate=0"])
    # A batch that does not divide the images: 47,999 are an interval.
    found = plan(SHIPPED, 96_000, 48_000, ["datasets:train:batch_size_per_gpu=7"])
    assert (found.options["val"]["val_freq"], found.total) == (6857, 2 * 6857)


@pytest.mark.parametrize(
    "images, changes, message",
    [
        (50_000, (), "--images 50000: expected a multiple of --images-per-checkpoint (48000)"),
        (48_000, ["datasets:train:batch_size_per_gpu=0"], "batch_size_per_gpu: 0: expected 1 or more"),
        (48_000, ["datasets:trian:gt_size=1"], "has no section 'trian'"),
    ],
)
def test_what_does_not_fit(images, changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        plan(SHIPPED, images, 48_000, changes)


def test_the_comparison_of_the_readme():
    """All light networks under one budget, those with a schedule for a longer one too."""
    files = sorted((ROOT / "options" / "train").glob("train_*_light_SRx4_from_scratch.yml"))
    assert {plan(str(file), 480_000, 48_000).total for file in files} == {60_000} and len(files) == 7


def test_no_option_file_for_training():
    with pytest.raises(InputError, match="is no option file for training: it has no 'train'"):
        plan(str(ROOT / "options" / "test" / "test_Contrast_SRx4.yml"), 48_000, 48_000)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A network trained for 4 iterations of 2 images."""
    root = tmp_path_factory.mktemp("compared")
    write_pairs(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["compare", write(root, "a"), "--images", "8", "--images-per-checkpoint", "4"]) == 0
    return root


def test_a_real_run(compared):
    """The report reads what the trainer writes."""
    models = compared / "experiments" / "a" / "models"
    assert sorted(path.name for path in models.iterdir()) == ["net_g_2.pth", "net_g_4.pth", "net_g_latest.pth"]
    run = read_run(compared / "experiments" / "a")
    assert run.notes == []
    assert list(run.values["losses/l_pix"]) == [1, 2, 3, 4]
    assert list(run.values["metrics/val/psnr"]) == list(run.values["metrics/val/ssim"]) == [2, 4]
    assert all(10 < value < 60 for value in run.values["metrics/val/psnr"].values())
    assert (run.network, run.finished, run.iterations, run.images(4), run.interval) == ("Contrast", True, 4, 8, 2)
    assert run.parameters > 1000 and min(run.iteration_seconds) > 0 and run.hours(4) >= 0
    assert run.memory > 50
    assert run.options["train"]["total_iter"] == 4 and run.options["val"]["val_freq"] == 2
    output = (compared / "results" / "compare" / "a.out").read_text()
    assert "Validation val" in output


class Trainer:
    """In place of contrast-train in a process of its own: writes what it would leave, and notes the calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, folder, module, file, *arguments, on_line, processes):
        options = yaml.safe_load(Path(file).read_text())
        assert (folder, module, arguments) == (Path.cwd(), "contrast_arch.train", ("--auto_resume",))
        experiment = folder / "experiments" / options["name"]
        states = experiment / "training_states"
        (experiment / "models").mkdir(parents=True, exist_ok=True)
        states.mkdir(exist_ok=True)
        first = max((int(path.stem) for path in states.iterdir()), default=0)
        start = Start(folder, options["name"], options, first, f"{len(self.calls):06}")
        trained = []
        self.calls.append((options["name"], first, trained))
        for iteration in range(first + 1, options["train"]["total_iter"] + 1):
            start.train({iteration: 0.1})
            trained.append(iteration)
            on_line(start.log.read_text().splitlines(keepends=True)[-1])
            if iteration % options["logger"]["save_checkpoint_freq"] == 0:
                (states / f"{iteration}.state").touch()
        (experiment / "models" / "net_g_latest.pth").touch()


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path)
    found = Trainer()
    monkeypatch.setattr(compare, "launch", found)
    monkeypatch.setattr(compare, "check", lambda file: None)  # states are empty files
    return found


ARGUMENTS = ("--images-per-checkpoint", "4")


def test_one_after_the_other_again_and_further(tmp_path, trainer, capsys):
    """A finished experiment is passed over; a larger budget goes on; a lost end is made up."""
    files = [write(tmp_path, name) for name in ("a", "b")]
    assert main(["compare", *files, "--images", "8", *ARGUMENTS]) == 0
    assert trainer.calls == [("a", 0, [1, 2, 3, 4]), ("b", 0, [1, 2, 3, 4])]
    assert main(["compare", *files, "--images", "8", *ARGUMENTS]) == 0
    assert len(trainer.calls) == 2
    assert capsys.readouterr().out.endswith("contrast-arch report experiments/a experiments/b\n")
    assert main(["compare", "a.yml", "--images", "12", *ARGUMENTS]) == 0
    assert trainer.calls[2:] == [("a", 4, [5, 6])]
    (tmp_path / "experiments" / "b" / "models" / "net_g_latest.pth").unlink()
    (tmp_path / "experiments" / "b" / "training_states" / "4.state").unlink()
    assert main(["compare", "b.yml", "--images", "8", *ARGUMENTS]) == 0
    assert trainer.calls[3:] == [("b", 2, [3, 4])]
    assert main(["compare", "a.yml", "--images", "8", *ARGUMENTS]) == 1
    assert "experiments/a was begun with other options (train: total_iter: 6, now 4)" in capsys.readouterr().err


def test_seeds_are_interleaved_and_can_be_added(tmp_path, trainer, capsys):
    files = [write(tmp_path, name, manual_seed=7) for name in ("a", "b")]
    assert main(["compare", *files, "--images", "8", "--seeds", "2", *ARGUMENTS]) == 0
    names = ["a_seed0", "b_seed0", "a_seed1", "b_seed1"]
    assert [name for name, *_ in trainer.calls] == names
    report = " ".join(f"experiments/{name}" for name in names)
    assert capsys.readouterr().out.endswith(f"contrast-arch report {report}\n")
    run = {name: yaml.safe_load((tmp_path / "results" / "compare" / f"{name}.yml").read_text()) for name in names}
    assert [(options["name"], options["manual_seed"]) for options in run.values()] == [
        *(("a_seed0", 0), ("b_seed0", 0), ("a_seed1", 1), ("b_seed1", 1)),
    ]
    assert main(["compare", *files, "--images", "8", "--seeds", "3", *ARGUMENTS]) == 0
    assert [name for name, *_ in trainer.calls[4:]] == ["a_seed2", "b_seed2"]
    assert main(["compare", "a.yml", "--images", "8", "--seeds", "0", *ARGUMENTS]) == 1
    assert "--seeds 0: expected more than 0" in capsys.readouterr().err
    assert main(["compare", "a.yml", "--images", "8", "--seeds", str(10**12), *ARGUMENTS]) == 1
    assert "--seeds 1000000000000: expected at most 1000" in capsys.readouterr().err


MISTAKES = {
    "gpus": (["new.yml", "--gpus", "2"], "num_gpu: 2"),
    "no images": (["a.yml", "--images", "0"], "--images 0: expected more than 0"),
    "twice": (["a.yml", "a.yml"], "a.yml: experiments/a is that of another option file; give each its own name"),
    "other options": (
        ["a.yml", "--force_yml", "train:optim_g:lr=!!float 1e-5"],
        "experiments/a was begun with other options (train: optim_g: lr: 0.001, now 1e-05)",
    ),
    "foreign experiment": (["foreign.yml"], "experiments/foreign exists already, and results/compare/foreign.yml"),
    "a later file": (["new.yml", "broken.yml"], "network_g: Contrast has no argument 'dimensions'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_before_the_first_starts(compared, mistake, monkeypatch, capsys):
    arguments, message = MISTAKES[mistake]
    root = compared
    monkeypatch.chdir(root)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    write(root, "new")
    write(root, "broken", network_g={**TINY, "dimensions": 3})
    write(root, "foreign")
    (root / "experiments" / "foreign").mkdir(exist_ok=True)
    before = sorted(root.rglob("*"))
    budget = [] if "--images" in arguments else ["--images", "12"]
    assert main(["compare", *arguments, *budget, "--images-per-checkpoint", "4"]) == 1
    assert message in capsys.readouterr().err
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    "error, code, message",
    [
        (InputError("it failed"), 1, "error: it failed\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (None, 1, "experiments/fails was stopped before its end; the same command goes on from there\n"),
    ],
)
def test_a_run_that_fails_or_is_stopped_ends_the_comparison(
    tmp_path, trainer, monkeypatch, capsys, error, code, message
):
    launched = []

    def fail(folder, module, file, *_, **__):
        launched.append(file.stem)
        if error:
            raise error

    monkeypatch.setattr(compare, "launch", fail)
    files = [write(tmp_path, name) for name in ("fails", "after")]
    assert main(["compare", *files, "--images", "8", *ARGUMENTS]) == code
    assert capsys.readouterr().err.endswith(message)
    assert launched == ["fails"]


def test_launch_under_torchrun(tmp_path, monkeypatch):
    """Two processes, on a port of their own; --launcher pytorch reaches the module."""
    commands, lines = [], []

    def popen(command, **more):
        commands.append(command)
        return subprocess_popen([sys.executable, "-c", "print('a line')"], **more)

    subprocess_popen = subprocess.Popen
    monkeypatch.setattr("subprocess.Popen", popen)
    launch(tmp_path, "module", tmp_path / "a.yml", "--auto_resume", on_line=lines.append, processes=2)
    assert lines == ["a line\n"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "module"]
    assert commands == [[*torchrun, "-opt", str(tmp_path / "a.yml"), "--auto_resume", "--launcher", "pytorch"]]


def test_finished_means_that_the_last_weights_are_those_of_this_budget(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = Experiment(tmp_path / "a", {}, total=6, images=6)
    for folder, file in (("training_states", "6.state"), ("models", "net_g_latest.pth")):
        assert not experiment.finished()
        (experiment.folder / folder).mkdir(parents=True)
        (experiment.folder / folder / file).touch()
    assert experiment.finished()
    os.utime(experiment.folder / "models" / "net_g_latest.pth", (0, 0))
    assert not experiment.finished()
