"""``contrast-arch check``, what the trainer says of the same, and the processes and GPUs of a run."""

import re

import pytest
import yaml

from contrast_arch.check import RunContext, check_file
from contrast_arch.check.context import completed
from contrast_arch.cli import main
from contrast_arch.errors import InputError
from contrast_arch.pipeline import check as check_for_compare
from tests.check.conftest import alike
from tests.conftest import ROOT, tiny_options
from tests.test_pipeline import snapshot

TEXT = """\
name: a
name: b
model_type: SRModel
scale: 4
num_gpu: 0
datasets:
  train:
    name: x
    type: PairedImageDataset
    dataroot_gt: nowhere
    dataroot_lq: LR
    io_backend: {type: disk}
    gt_siz: 64
network_g:
  type: Contrast
  windw_size: 8
path: {}
train:
  total_iter: 1e5
  optim_g: {type: AdamW, lr: 2e-4}
  scheduler: {type: MultiStepLR, milestones: [1e5]}
  pixel_opt: {type: L1Los}
  amp: bf16
val:
  val_freq: 5e3
  save_img: false
logger: {print_freq: 100, save_checkpoint_freq: 5000, use_tb_logger: false, extra: 1}
"""


def test_everything_at_once_by_line(root, capsys):
    (root / "a.yml").write_text(TEXT)
    before = snapshot(root)
    assert main(["check", "-opt", "a.yml"]) == 1
    assert snapshot(root) == before
    *lines, summary = capsys.readouterr().out.splitlines()
    expected = [
        (2, "error", "'name' stands already in line 1; keep one"),
        (7, "error", "datasets: train has no batch_size_per_gpu, num_worker_per_gpu, gt_size, use_hflip, use_rot; "),
        (10, "error", "datasets: train: dataroot_gt: nowhere does not exist (looked for under "),
        (13, "error", "datasets: train: gt_siz: no such key; did you mean gt_size?"),
        (16, "error", "network_g: Contrast has no argument 'windw_size'; did you mean window_size"),
        (19, "error", "train: total_iter: 1e5 is read as text; write 'total_iter: !!float 1e5'"),
        (20, "error", "train: optim_g: lr: 2e-4 is read as text; write 'lr: !!float 2e-4'"),
        (20, "error", "train: optim_g: type: AdamW: SRModel takes Adam only"),
        (21, "error", "train: scheduler: milestones: ['1e5'] is read as text; write 'milestones: [!!float 1e5]'"),
        (22, "error", "train: pixel_opt: type: 'L1Los' is not registered; did you mean L1Loss"),
        (23, "error", "train: amp: SRModel ignores it; 'model_type: ContrastModel' has it"),
        (24, "warning", "val: nothing is validated without both a section 'val' and a dataset 'val'"),
        (25, "error", "val: val_freq: 5e3 is read as text; write 'val_freq: !!float 5e3'"),
        (27, "warning", "logger: extra: no such key; it is ignored"),
    ]
    assert alike(lines, [f"a.yml:{number}: {severity}: {message}..." for number, severity, message in expected])
    assert summary == "12 errors, 2 warnings"


def test_no_problems(root, capsys):
    (root / "a.yml").write_text(yaml.safe_dump(tiny_options(root)))
    assert main(["check", "-opt", "a.yml"]) == 0
    assert capsys.readouterr().out == "no problems\n"
    assert main(["check", "-opt", "a.yml", "--force_yml", "train:warmup_iter=4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 warning"


def test_files_that_cannot_be_read(root, capsys):
    (root / "a.yml").write_text("a: [1\n")
    assert main(["check", "-opt", "a.yml", "none.yml"]) == 1
    first, second, summary = capsys.readouterr().out.splitlines()
    assert re.match(r"a\.yml:\d: error: not readable as YAML: ", first)
    assert second == "none.yml: error: No such file or directory" and summary == "2 errors"


def test_what_is_for_testing(root, capsys):
    """Without a section train a file is for testing, with --test every file."""
    file = ROOT / "options" / "test" / "test_Contrast_SRx4.yml"
    assert main(["check", "-opt", str(file)]) == 1
    out = capsys.readouterr().out
    assert "has no" not in out and out.splitlines()[-1] == "11 errors"
    (root / "a.yml").write_text(yaml.safe_dump(tiny_options(root)))
    assert main(["check", "-opt", "a.yml", "--test"]) == 0
    assert "a.yml" in (out := capsys.readouterr().out) and "random weights are tested" in out
    # With data for training it is a section that is missing.
    (root / "a.yml").write_text(yaml.safe_dump(tiny_options(root, train=None)))
    assert main(["check", "-opt", "a.yml"]) == 1
    assert "a.yml:1: error: a.yml has no train" in capsys.readouterr().out
    (root / "a.yml").write_text("datasets: 5\n")
    assert main(["check", "-opt", "a.yml"]) == 1


def test_every_image(root, capsys):
    (root / "a.yml").write_text(yaml.safe_dump(tiny_options(root)))
    picture = root / "HR" / "0.png"
    picture.write_bytes(picture.read_bytes()[:-2000])
    assert main(["check", "-opt", "a.yml"]) == 0
    assert main(["check", "-opt", "a.yml", "--all"]) == 1
    assert f"{picture}: cannot be read as an image completely: " in capsys.readouterr().out


def test_the_trainer_takes_what_basicsr_passes_over(root, capsys, monkeypatch):
    """As warnings, of the first process only."""
    options = tiny_options(root, val={"sufix": None}, train={"amp": "bf16", "extra": 1})
    (root / "a.yml").write_text(yaml.safe_dump(options))
    check_file("a.yml", RunContext(is_train=True))
    assert capsys.readouterr().err.splitlines() == [
        "warning: train: amp: SRModel ignores it; 'model_type: ContrastModel' has it",
        "warning: train: extra: no such key; it is ignored",
        "warning: val: sufix: no such key; did you mean suffix?",
    ]
    for variable in ("RANK", "SLURM_PROCID"):
        monkeypatch.setenv(variable, "1")
        check_file("a.yml", RunContext(is_train=True))
        assert capsys.readouterr().err == ""
        monkeypatch.delenv(variable)


def test_the_trainer_says_all_errors_at_once(root):
    (root / "a.yml").write_text(TEXT)
    for check in (lambda: check_file("a.yml", RunContext(is_train=True)), lambda: check_for_compare(root / "a.yml")):
        with pytest.raises(InputError) as failure:
            check()
        lines = str(failure.value).splitlines()
        assert lines[0].endswith("a.yml, line 2: 'name' stands already in line 1; keep one")
        assert len(lines) == 10 and not any("gt_siz:" in line or "train: amp" in line for line in lines)


@pytest.mark.parametrize("auto_resume", [False, True])
def test_an_option_file_in_the_folder_of_its_run(root, auto_resume):
    """Its training is in tests/test_pipeline.py."""
    folder = root / "experiments" / "tiny"
    folder.mkdir(parents=True)
    (folder / "options.yml").write_text(yaml.safe_dump(tiny_options(root)))
    check_file("experiments/tiny/options.yml", RunContext(True, auto_resume=auto_resume))


@pytest.mark.parametrize(
    "launcher, environment, size",
    [("pytorch", {"WORLD_SIZE": "4"}, 4), ("slurm", {"SLURM_NTASKS": "3"}, 3), ("none", {"WORLD_SIZE": "4"}, 1)],
)
def test_world_size(monkeypatch, launcher, environment, size):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert RunContext(True, launcher).world_size == size


def test_several_processes_without_a_gpu(check, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert check(launcher="pytorch") == []
    monkeypatch.delenv("RANK")
    (found,) = check(launcher="pytorch")
    assert "--launcher pytorch: RANK not in the environment; start it by 'torchrun" in found
    monkeypatch.setenv("SLURM_NODELIST", "a;touch b")
    found = check(launcher="slurm")
    assert found[1].startswith("error: SLURM_NODELIST=a;touch b: expected names of nodes")


def test_gpus(check, gpus, monkeypatch):
    how = "write auto, or 0 for none"
    assert check({"num_gpu": 1}) == [f"error: num_gpu: 1, but PyTorch sees no GPU; {how}"]
    gpus(2)
    assert check({"num_gpu": 2}) == []
    assert check({"num_gpu": 4}) == [f"error: num_gpu: 4, but PyTorch sees 2; {how}"]
    # Each process looks at its own.
    monkeypatch.setenv("RANK", "3")
    assert RunContext(True, "pytorch").device.index == 1
    assert RunContext(True).device.index == 0


def test_options_as_basicsr_completes_them(root, monkeypatch):
    """Held against BasicSR's own reader."""
    from basicsr.utils.options import parse_options

    options = tiny_options(root, num_gpu="auto", path={"pretrain_network_g": "~/a.pth"})
    options["datasets"]["val_1"] = {**options["datasets"].pop("val"), "dataroot_lq": "~/LR"}
    (root / "a.yml").write_text(yaml.safe_dump(options))
    monkeypatch.setattr("sys.argv", ["train", "-opt", "a.yml", "--auto_resume", "--debug"])
    read, _ = parse_options(str(root), is_train=True)
    own = completed(options, RunContext(True, auto_resume=True, debug=True))
    for key in ("name", "num_gpu", "datasets", "is_train", "auto_resume", "dist"):
        assert own[key] == read[key], key
    for key in ("models", "pretrain_network_g"):
        assert own["path"][key] == read["path"][key], key
