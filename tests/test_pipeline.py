"""BasicSR's trainer and tester from end to end, and every mistake in what they are given."""

import re
import shutil

import pytest
import torch
import yaml

from contrast_arch.pipeline import run
from tests.conftest import run_module, tiny_options, write_pairs


def losses(log):
    return {int(i): float(x) for i, x in re.findall(r"iter:\s*(\d+).*?l_pix: (\S+)", log)}


def snapshot(root):
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.name != "options.yml"}


def command(root, monkeypatch, module, file, *args):
    """Run contrast-train or contrast-test in this process and a folder; 0 or 1."""
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.argv", [f"contrast-{module}", "-opt", str(file), *args])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return run(is_train=module == "train")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with pairs and a run of four iterations in it, in a process of its own."""
    root = tmp_path_factory.mktemp("trained")
    write_pairs(root)
    result = run_module("contrast_arch.train", tiny_options(root), root)
    assert result.returncode == 0, result.stderr
    return root, result


def test_trains_validates_and_saves(trained):
    root, result = trained
    models = root / "experiments" / "tiny" / "models"
    assert sorted(p.name for p in models.iterdir()) == ["net_g_2.pth", "net_g_4.pth", "net_g_latest.pth"]
    assert "Network [Contrast] is created." in result.stderr
    assert result.stderr.count("ss2d on cpu: backend cpu") == 1
    assert sorted(losses(result.stderr)) == [1, 2, 3, 4]
    assert all(0 < loss < 1 for loss in losses(result.stderr).values())
    # The weights of the last iteration are validated once.
    assert len(re.findall(r"# psnr: (\d+\.\d+)", result.stderr)) == 2
    assert re.search(r"contrast_arch: \S+, run by BasicSR 1\.4\.2 ", result.stderr)
    assert "\r" not in result.stderr


def resumed(trained, tmp_path):
    shutil.copytree(trained[0] / "experiments", tmp_path / "experiments")


@pytest.mark.parametrize("auto_resume", [True, False])
def test_resumes_with_the_experiments_copy_of_its_option_file(trained, tmp_path, auto_resume, monkeypatch, log):
    """Iteration and rate (halved at 3) go on. Anew, the earlier experiment with the file is moved aside before."""
    resumed(trained, tmp_path)
    file = tmp_path / "experiments" / "tiny" / "options.yml"
    before = file.read_text()
    args = ["--auto_resume"] if auto_resume else []
    args += ["--force_yml", "train:total_iter=6", "datasets:train:num_worker_per_gpu=1"]
    assert command(tmp_path, monkeypatch, "train", "experiments/tiny/options.yml", *args) == 0
    assert file.read_text().endswith(before) and f"# contrast-train -opt experiments/tiny/options.yml {args[0]}" in (
        file.read_text()
    )
    aside = list((tmp_path / "experiments").glob("tiny_archived_*"))
    assert len(aside) == (0 if auto_resume else 1)
    assert auto_resume or (aside[0] / "options.yml").read_text() == before
    rates = {int(i): float(x) for i, x in re.findall(r"iter:\s*(\d+), lr:\((\S+?),\)", "\n".join(log))}
    assert rates == {i: 1e-3 if i < 4 else 5e-4 for i in range(5 if auto_resume else 1, 7)}


@pytest.mark.parametrize("override, lr", [([], 1e-3), (["--override-state"], 5e-4)])
def test_resuming_with_a_changed_file(trained, tmp_path, override, lr, monkeypatch, log, capsys):
    """The differences are said before the run; BasicSR's own parser gets no argument that it does not know."""
    resumed(trained, tmp_path)
    changed = tiny_options(trained[0], train={"optim_g": {"type": "Adam", "lr": 5e-4}, "total_iter": 5})
    (tmp_path / "a.yml").write_text(yaml.safe_dump(changed))
    assert command(tmp_path, monkeypatch, "train", "a.yml", "--auto_resume", "--no-progress", *override) == 0
    end = ", which is taken (--override-state)" if override else "; --override-state takes the file's"
    text = f"train: optim_g: lr: the state has 0.001, the file says 0.0005{end}"
    assert f"warning: {text}" in capsys.readouterr().err.splitlines()
    state = torch.load(tmp_path / "experiments/tiny/training_states/4.state", weights_only=True)
    assert state["optimizers"][0]["param_groups"][0]["initial_lr"] == 1e-3
    (line,) = [line for line in log if "iter:       5, lr" in line]
    assert f"lr:({lr / 2:.3e},)" in line


def test_a_file_without_a_seed(trained, tmp_path, monkeypatch, log):
    """One is drawn once for the run; the options of a resumed run are the same."""
    once = {"train": {"total_iter": 1}, "logger": {"save_checkpoint_freq": 1}, "val": None}
    options = tiny_options(trained[0], manual_seed=None, **once)
    del options["datasets"]["val"]
    (tmp_path / "a.yml").write_text(yaml.safe_dump(options))
    for _ in range(2):
        assert command(tmp_path, monkeypatch, "train", "a.yml", "--auto_resume") == 0
    assert "Resuming training from epoch: 0, iter: 1." in log
    drawn = re.findall(r"manual_seed: (\w+)", "\n".join(log))
    assert len(drawn) == 2 and drawn[0] == drawn[1] != "None"


def test_a_progress_bar(trained, tmp_path, monkeypatch, capsys):
    """Lines of the log go past it."""
    resumed(trained, tmp_path)
    (tmp_path / "a.yml").write_text(yaml.safe_dump(tiny_options(trained[0], train={"total_iter": 6})))
    assert command(tmp_path, monkeypatch, "train", "a.yml", "--auto_resume", "--progress") == 0
    error = capsys.readouterr().err
    assert "6/6" in error and "l_pix=" in error


def test_basicsrs_own_trainer(trained, tmp_path, monkeypatch, log, capsys):
    """Unchanged: it validates the last weights twice; what only the loop can do is refused."""
    (tmp_path / "a.yml").write_text(yaml.safe_dump(tiny_options(trained[0], val={"val_freq": 4})))
    assert command(tmp_path, monkeypatch, "train", "a.yml", "--trainer", "basicsr") == 0
    assert "".join(log).count("# psnr: ") == 2 and not (tmp_path / "experiments/tiny/metrics.jsonl").exists()
    assert command(tmp_path, monkeypatch, "train", "a.yml", "--trainer", "basicsr", "--auto_resume") == 0
    assert "Resuming training from epoch: 0, iter: 4." in log
    assert command(tmp_path, monkeypatch, "train", "a.yml", "--trainer", "basicsr", "--override-state") == 1
    assert "--override-state: BasicSR's trainer resumes with the state's values" in capsys.readouterr().err


def test_tests_a_checkpoint(trained, tmp_path, monkeypatch, log):
    """With the figures of the training."""
    root, result = trained
    checkpoint = root / "experiments" / "tiny" / "models" / "net_g_4.pth"
    changes = {"path": {"pretrain_network_g": str(checkpoint)}, "val": {"save_img": True}}
    options = tiny_options(root, name="tiny_test", **changes, train=None, logger=None)
    options["datasets"] = {"test_1": options["datasets"]["val"]}
    (tmp_path / "a.yml").write_text(yaml.safe_dump(options))
    assert command(tmp_path, monkeypatch, "test", "a.yml") == 0
    psnr, ssim = (re.findall(rf"# {name}: (\d+\.\d+)", result.stderr)[-1] for name in ("psnr", "ssim"))
    assert f"# psnr: {psnr}" in log[-1] and f"# ssim: {ssim}" in log[-1]
    pictures = tmp_path / "results" / "tiny_test" / "visualization" / "val"
    assert sorted(p.name for p in pictures.iterdir()) == ["0x4_tiny_test.png", "1x4_tiny_test.png"]


def dataset(root, phase, **changes):
    datasets = tiny_options(root)["datasets"]
    return {"datasets": {phase: {**datasets[phase], **changes}}}


# One of each kind; tests/check has all.
MISTAKES = {
    "missing dataroot": (
        lambda root: dataset(root, "train", dataroot_gt="nowhere/HR"),
        ["datasets: train: dataroot_gt: nowhere/HR does not exist"],
    ),
    "wrong scale": (
        lambda root: {"scale": 2, "network_g": {"upscale": 2}},
        ["LQ and GT do not fit", "0x4.png is 24x20, so at scale 2", "0.png must be 48x40, not 96x80"],
    ),
    "not an image": (lambda root: dataset(root, "val", dataroot_lq="broken"), ["0x4.png: cannot be read as an image"]),
    "network argument": (
        lambda root: {"network_g": {"ssm_dstate": 1}},
        ["network_g: Contrast has no argument 'ssm_dstate'; did you mean ssm_d_state"],
    ),
    "missing section": (lambda root: {"logger": None}, ["options.yml has no logger"]),
    "truncated checkpoint": (
        lambda root: {"path": {"pretrain_network_g": "truncated.pth"}},
        ["checkpoint truncated.pth cannot be read; it may be truncated"],
    ),
    "checkpoint of another network": (
        lambda root: {"path": {"pretrain_network_g": "net.pth"}, "network_g": {"type": "HATLight"}},
        ["net.pth was not saved from this network_g (HATLight)", "attn.qkv.weight is missing"],
    ),
    "truncated state": (
        lambda root: {"path": {"resume_state": "truncated.pth"}},
        ["training state truncated.pth cannot be read"],
    ),
}


@pytest.fixture(scope="module")
def workplace(trained, tmp_path_factory):
    """Pairs, an earlier experiment, a good and a truncated checkpoint."""
    root = tmp_path_factory.mktemp("mistakes")
    write_pairs(root)
    (root / "broken").mkdir()
    for name in ("0x4.png", "1x4.png"):
        (root / "broken" / name).write_bytes(b"no picture")
    weights = (trained[0] / "experiments" / "tiny" / "models" / "net_g_4.pth").read_bytes()
    (root / "net.pth").write_bytes(weights)
    (root / "truncated.pth").write_bytes(weights[: len(weights) // 2])
    earlier = root / "experiments" / "tiny" / "models"
    earlier.mkdir(parents=True)
    (earlier / "net_g_latest.pth").write_bytes(weights)
    return root


def nested(root, changes):
    """tiny_options takes one level; a change of one dataset keeps the other."""
    options = tiny_options(root, **{k: v for k, v in changes.items() if k != "datasets"})
    options["datasets"].update(changes.get("datasets", {}))
    return options


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_message(workplace, mistake, monkeypatch, capsys):
    """In this process, since each would take seconds of imports: message on stderr, 1, nothing on disk changed."""
    changes, messages = MISTAKES[mistake]
    code, error = run_here(workplace, nested(workplace, changes(workplace)), monkeypatch, capsys)
    assert code == 1
    assert error.startswith("error: ")
    for message in messages:
        assert message in error
    assert "Traceback" not in error


def run_here(root, options, monkeypatch, capsys, *args):
    (root / "options.yml").write_text(options if isinstance(options, str) else yaml.safe_dump(options))
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.argv", ["contrast-train", "-opt", "options.yml", *args])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = snapshot(root)
    code = run(is_train=True)
    assert snapshot(root) == before
    return code, capsys.readouterr().err


def test_mistakes_in_the_file_itself(workplace, monkeypatch, capsys):
    def error_of(text, *args):
        code, error = run_here(workplace, text, monkeypatch, capsys, *args)
        assert code == 1 and error.startswith("error: ")
        return error

    assert "line 2: 'name' stands already in line 1" in error_of("name: a\nname: b\n")
    assert "options.yml, line 2: not readable as YAML" in error_of("name: [a\n")
    assert "no options: expected" in error_of("just text")
    good = tiny_options(workplace)
    assert "expected key:key=value" in error_of(good, "--force_yml", "name")
    assert "has no section 'trian'" in error_of(good, "--force_yml", "trian:total_iter=1")
    assert "RANK, WORLD_SIZE not in the environment" in error_of(good, "--launcher", "pytorch")
    monkeypatch.setattr("sys.argv", ["contrast-train", "-opt", "nowhere.yml"])
    assert run(is_train=True) == 1
    assert capsys.readouterr().err == "error: nowhere.yml: No such file or directory\n"


@pytest.mark.parametrize(
    "backend, message",
    [
        ("cuda", "ss2d: backend 'cuda' (of the call or of CONTRAST_ARCH_BACKEND): it needs a tensor on cuda"),
        ("ss2d=xpu", "CONTRAST_ARCH_BACKEND=ss2d=xpu: 'ss2d=xpu': expected a backend or OPERATOR=BACKEND (ss2d: "),
    ],
)
def test_a_forced_backend_that_does_not_support_the_device(workplace, backend, message, monkeypatch, capsys):
    monkeypatch.setenv("CONTRAST_ARCH_BACKEND", backend)
    code, error = run_here(workplace, tiny_options(workplace), monkeypatch, capsys)
    assert code == 1 and error.startswith(f"error: {message}")
