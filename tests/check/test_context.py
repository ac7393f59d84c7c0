"""Processes and GPUs."""

import pytest

from contrast_arch.check.context import RunContext, completed


@pytest.mark.parametrize(
    "launcher, environment, size",
    [("pytorch", {"WORLD_SIZE": "4"}, 4), ("slurm", {"SLURM_NTASKS": "3"}, 3), ("none", {"WORLD_SIZE": "4"}, 1)],
)
def test_world_size(monkeypatch, launcher, environment, size):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert RunContext(True, launcher).world_size == size
    assert RunContext(True, launcher, processes=2).world_size == 2


def test_several_processes_without_a_gpu(check, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert check(launcher="pytorch") == []
    text = "BasicSR's trainer needs a GPU per process, and PyTorch sees none; leave --trainer out"
    assert check(launcher="pytorch", trainer="basicsr") == [("error", f"--launcher pytorch: {text}")]
    monkeypatch.delenv("RANK")
    (found,) = check(launcher="pytorch")
    assert "--launcher pytorch: RANK not in the environment; start it by 'torchrun" in found[1]
    assert check(launcher="pytorch", launched=False) == []


def test_several_gpus(check, gpus):
    gpus(2)
    assert not [message for severity, message in check(num_gpu=2) if severity == "error"]
    (found,) = [message for severity, message in check(num_gpu=2, model_type="ContrastModel") if severity == "error"]
    assert found == (
        "num_gpu: 2: ContrastModel trains on several GPUs in a process each: 'torchrun --nproc_per_node=2 -m "
        "contrast_arch.train -opt FILE --launcher pytorch'; or write num_gpu: 1"
    )
    assert ("error", "num_gpu: 4, but PyTorch sees 2; write num_gpu: auto") in check(num_gpu=4)


def test_processes_on_the_cpu_of_a_machine_with_gpus(check, gpus):
    gpus(2)
    expected = (
        "num_gpu: 0 with --launcher pytorch: the processes communicate over the GPUs that PyTorch sees; write auto, or "
        "hide the GPUs (CUDA_VISIBLE_DEVICES=)"
    )
    for model in ("SRModel", "ContrastModel"):
        assert ("error", expected) in check(launcher="pytorch", launched=False, model_type=model)


def test_options_as_basicsr_completes_them(root, monkeypatch):
    """Held against BasicSR's own reader."""
    import yaml
    from basicsr.utils.options import parse_options

    from tests.conftest import tiny_options

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


def test_each_process_looks_at_its_own_gpu(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("RANK", "3")
    assert RunContext(True, "pytorch").device.index == 1
    assert RunContext(True).device.index == RunContext(True, "pytorch", launched=False).device.index == 0
    assert RunContext(True, "pytorch", launched=False).world_size == 2
