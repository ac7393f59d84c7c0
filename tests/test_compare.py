"""Experiments under one budget: what they are run with, what an earlier call leaves, and what does not fit."""

import os
import re

import pytest
import torch
import yaml

from contrast_arch import compare
from contrast_arch.cli import main
from contrast_arch.compare import Budget, Experiment, plan
from contrast_arch.errors import InputError
from contrast_arch.launch import launch
from contrast_arch.report.lines import training_line
from tests.conftest import ROOT, TINY, tiny_options, write_pairs

SHIPPED = str(ROOT / "options" / "train" / "train_Contrast_SRx4_from_scratch.yml")


def write(root, name, **changes):
    (root / f"{name}.yml").write_text(yaml.safe_dump(tiny_options(root, name=name, **changes)))
    return f"{name}.yml"


@pytest.mark.parametrize("gpus, interval", [(0, 6000), (1, 6000), (4, 1500), (5, 1200)])
def test_images_between_checkpoints_stay_the_same(gpus, interval):
    """Batch 8 on each GPU."""
    found = plan(SHIPPED, Budget(images=480_000), 48_000, (), gpus)
    assert found.batch == 8 * max(1, gpus)
    assert found.options["num_gpu"] == gpus
    assert found.options["logger"]["save_checkpoint_freq"] == found.options["val"]["val_freq"] == interval
    assert interval * found.batch == 48_000
    assert found.total == 10 * interval
    assert found.options["logger"]["print_freq"] == min(100, interval // 50)


def test_accumulated_images_count():
    changes = ["model_type=ContrastModel", "train:accumulate=4"]
    found = plan(SHIPPED, Budget(images=96_000), 48_000, changes, gpus=2)
    assert (found.batch, found.total, found.options["val"]["val_freq"]) == (64, 1500, 750)
    assert plan(SHIPPED, Budget(images=96_000), 48_000, changes[1:]).batch == 8
    with pytest.raises(InputError, match="train: accumulate: 0: expected a whole number of at least 1"):
        plan(SHIPPED, Budget(images=96_000), 48_000, ["model_type=ContrastModel", "train:accumulate=0"])


def test_a_batch_that_does_not_divide_the_images():
    changes = ["datasets:train:batch_size_per_gpu=7"]
    found = plan(SHIPPED, Budget(images=96_000), 48_000, changes)
    assert found.options["val"]["val_freq"] == 6857  # 47,999 images
    assert found.total == 2 * 6857


def test_hours_leave_the_iterations_of_the_file():
    assert plan(SHIPPED, Budget(hours=2.5), 48_000).total == 500_000


@pytest.mark.parametrize(
    "budget, changes, message",
    [
        (Budget(iterations=5999), (), "--iterations 5999: expected whole intervals of 6000 iterations (48000 images)"),
        (Budget(iterations=15_000), (), "give --iterations 12000 or 18000"),
        (Budget(images=50_000), (), "--images 50000 (6250 iterations of 8 images): expected whole intervals"),
        (
            Budget(iterations=6000),
            ["train:scheduler:milestones=[3000,6000]"],
            "milestones: [3000, 6000] reaches beyond",
        ),
        (Budget(iterations=6000), ["train:warmup_iter=6000"], "warmup_iter: 6000 reaches beyond the budget of 6000"),
        (Budget(hours=1), ["train:scheduler:milestones=[3000]"], "its schedule is counted in iterations"),
        (Budget(iterations=6000), ["datasets:train:batch_size_per_gpu=0"], "batch_size_per_gpu: 0: expected 1 or more"),
        (Budget(iterations=6000), ["datasets:trian:gt_size=1"], "has no section 'trian'"),
    ],
)
def test_what_does_not_fit(budget, changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        plan(SHIPPED, budget, 48_000, changes)


def test_periods_have_to_end_with_the_budget(tmp_path):
    scheduler = {"type": "CosineAnnealingRestartLR", "periods": [4, 6], "restart_weights": [1, 1], "eta_min": 1e-7}
    file = tmp_path / write(tmp_path, "a", train={"scheduler": scheduler})
    assert plan(str(file), Budget(iterations=10), 4).total == 10
    for iterations in (8, 12):
        with pytest.raises(InputError, match=rf"\[4, 6\] are 10 iterations, the budget is {iterations}"):
            plan(str(file), Budget(iterations=iterations), 4)


def test_no_option_file_for_training():
    with pytest.raises(InputError, match="is no option file for training: it has no 'train'"):
        plan(str(ROOT / "options" / "test" / "test_Contrast_SRx4.yml"), Budget(images=48_000), 48_000)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two networks trained for 4 iterations of 2 images."""
    root = tmp_path_factory.mktemp("compared")
    write_pairs(root)
    files = [write(root, "a"), write(root, "b", network_g={**TINY, "type": "ContrastNoPE"})]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["compare", *files, "--images", "8", "--images-per-checkpoint", "4"]) == 0
    return root, files


def iterations(root, name):
    """Logged iterations of each start."""
    logs = sorted((root / "experiments" / name).glob("train_*.log"))
    return [[line.iteration for line in map(training_line, log.read_text().splitlines()) if line] for log in logs]


def checkpoints(root, name):
    return sorted(path.name for path in (root / "experiments" / name / "models").iterdir())


def test_each_is_trained_alike(compared):
    root, _ = compared
    for name in ("a", "b"):
        assert checkpoints(root, name) == ["net_g_2.pth", "net_g_4.pth", "net_g_latest.pth"]
        assert iterations(root, name)[0] == [1, 2, 3, 4]
        run = yaml.safe_load((root / "results" / "compare" / f"{name}.yml").read_text())
        assert run["train"]["total_iter"] == 4 and run["val"]["val_freq"] == 2
        output = (root / "results" / "compare" / f"{name}.out").read_text()
        assert "Peak memory: " in output and "Validation val" in output


def test_again_and_further(compared, monkeypatch, capsys):
    """A finished experiment is passed over; a larger budget goes on; a lost end is made up."""
    root, files = compared
    monkeypatch.chdir(root)
    starts = {name: len(iterations(root, name)) for name in ("a", "b")}
    arguments = ["--images-per-checkpoint", "4"]
    assert main(["compare", *files, "--images", "8", *arguments]) == 0
    assert {name: len(iterations(root, name)) for name in ("a", "b")} == starts
    assert capsys.readouterr().out.endswith("contrast-arch report experiments/a experiments/b\n")

    assert main(["compare", "a.yml", "--images", "12", *arguments]) == 0
    assert iterations(root, "a")[-1] == [5, 6]
    assert checkpoints(root, "a")[-2:] == ["net_g_6.pth", "net_g_latest.pth"]

    (root / "experiments" / "b" / "models" / "net_g_latest.pth").unlink()
    (root / "experiments" / "b" / "training_states" / "4.state").unlink()
    assert main(["compare", "b.yml", "--images", "8", *arguments]) == 0
    assert iterations(root, "b")[-1] == [3, 4]

    assert main(["compare", "a.yml", "--images", "8", *arguments]) == 1
    assert "experiments/a has a budget of 6 iterations already, more than 4" in capsys.readouterr().err


def test_hours(compared, monkeypatch):
    """None left: it ends after the first checkpoint and its validation, far from total_iter."""
    root, _ = compared
    monkeypatch.chdir(root)
    file = write(root, "timed")
    options = yaml.safe_load((root / file).read_text())
    options["train"].update(total_iter=400, scheduler={"type": "MultiStepLR", "milestones": [], "gamma": 0.5})
    (root / file).write_text(yaml.safe_dump(options))
    for _ in range(2):  # the second call has nothing left to do
        # Ten iterations an interval: the signal to end is there before the next checkpoint.
        assert main(["compare", file, "--hours", "0.000001", "--images-per-checkpoint", "20"]) == 0
        (logged,) = iterations(root, "timed")
        assert logged[:2] == [1, 2] and len(logged) < 20
    assert "net_g_10.pth" in checkpoints(root, "timed")
    log = (root / "results" / "compare" / "timed.out").read_text()
    assert log.count("# psnr: ") == log.count("Saving models and training states.") == 1


MISTAKES = {
    "gpus": (["a.yml", "--gpus", "2"], "--gpus 2: PyTorch sees 0"),
    "no images": (["a.yml", "--images", "0"], "--images 0: expected more than 0"),
    "twice": (["a.yml", "a.yml"], "another of the option files has the same name: a"),
    "other options": (
        ["a.yml", "--force_yml", "train:optim_g:lr=!!float 1e-5"],
        "experiments/a was begun with other options (train: optim_g: lr: 0.001, now 1e-05)",
    ),
    "foreign experiment": (["foreign.yml"], "experiments/foreign exists already and results/compare/foreign.yml"),
    "a later file": (["new.yml", "broken.yml"], "network_g: Contrast has no argument 'dimensions'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_before_the_first_starts(compared, mistake, monkeypatch, capsys):
    root, _ = compared
    arguments, message = MISTAKES[mistake]
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


def test_a_failed_run_ends_the_comparison(compared, monkeypatch, capsys):
    root, _ = compared
    monkeypatch.chdir(root)
    write(root, "fails", train={"pixel_opt": {"type": "MSELoss", "reduction": "neither"}})
    write(root, "after")
    assert main(["compare", "fails.yml", "after.yml", "--images", "8", "--images-per-checkpoint", "4"]) == 1
    assert "Unsupported reduction mode: neither" in capsys.readouterr().err
    assert not (root / "experiments" / "after").exists()


def test_an_interrupt_is_no_traceback(compared, monkeypatch, capsys):
    root, _ = compared
    monkeypatch.chdir(root)
    write(root, "interrupted")
    monkeypatch.setattr(compare, "launch", raise_interrupt)
    assert main(["compare", "interrupted.yml", "--images", "8", "--images-per-checkpoint", "4"]) == 130
    assert capsys.readouterr().err.endswith("stopped\n")


def raise_interrupt(*_, **__):
    raise KeyboardInterrupt


def test_launch_under_torchrun(tmp_path):
    """Two processes of a module that says its rank; --launcher pytorch reaches it."""
    (tmp_path / "module.py").write_text(
        "import os, sys\nprint('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], *sys.argv[1:])\n"
    )
    output = launch(tmp_path, "module", tmp_path / "a.yml", "--auto_resume", processes=2)
    for rank in (0, 1):
        assert f"rank {rank} of 2 -opt {tmp_path / 'a.yml'} --auto_resume --launcher pytorch" in output


def test_finished_means_that_the_last_weights_are_those_of_this_budget(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = Experiment({"name": "a", "train": {"total_iter": 6}}, 1)
    for folder, file in (("training_states", "6.state"), ("models", "net_g_latest.pth")):
        assert not experiment.finished()
        (experiment.folder / folder).mkdir(parents=True)
        (experiment.folder / folder / file).touch()
    assert experiment.finished()
    os.utime(experiment.folder / "models" / "net_g_latest.pth", (0, 0))
    assert not experiment.finished()


def test_hours_of_all_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments" / "a"
    folder.mkdir(parents=True)
    (folder / "train_a_1.log").write_text("2026-01-01 10:00:00,123 INFO: x\nmore\n2026-01-01 10:30:00,123 INFO: y\n")
    (folder / "train_a_2.log").write_text("2026-01-02 23:45:00,500 INFO: x\n2026-01-03 00:45:18,500 INFO: y\n2026-0")
    assert Experiment({"name": "a"}, 1).hours() == pytest.approx(1.505)
