"""Runs of several processes, as torchrun and Slurm start them, stopped and killed; forks of this one, which has all
imported."""

import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel

from contrast_arch import pipeline
from contrast_arch.training.distributed import leave_process_group
from tests.conftest import tiny_options, write_pairs
from tests.models.building import equal
from tests.training.building import content, exit_code, forked

NETWORK = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 4}


def write_options(root: Path, name: str, model_type: str, batch: int, **train) -> str:
    """An option file of a run in epochs of four iterations, with averaged weights and best metrics."""
    train = {"total_iter": 10, "ema_decay": 0.9, "optim_g": {"type": "Adam", "lr": 1e-4}} | train
    often, port = {"val": {"val_freq": 4}, "logger": {"save_checkpoint_freq": 4}}, {"port": free_port()}
    options = tiny_options(root, name=name, model_type=model_type, train=train, **often)
    options |= {"network_g": NETWORK, "dist_params": port}
    options["datasets"]["train"] |= {"batch_size_per_gpu": batch, "dataset_enlarge_ratio": 9}
    (root / f"{name}.yml").write_text(yaml.safe_dump(options))
    return f"{name}.yml"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def main(*arguments) -> int:
    sys.argv = ["contrast-train", "-opt", *arguments]
    return pipeline.run(is_train=True)


def at(iteration: int, call) -> None:
    """Call something at the beginning of an iteration, in this process."""
    update = BaseModel.update_learning_rate

    def update_learning_rate(self, current_iter, **more):
        if current_iter == iteration:
            call()
        update(self, current_iter, **more)

    BaseModel.update_learning_rate = update_learning_rate


def gloo_threads() -> list[str]:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def _child(environment, arguments, prepare) -> int:
    os.environ |= environment
    prepare()
    code = main(*arguments)
    assert gloo_threads()
    leave_process_group()
    # One that frees a tensor while Python ends would abort the process.
    assert gloo_threads() == []
    return code


def run(file: str, launcher: str = "pytorch", prepare=lambda: None) -> list[tuple[int, str]]:
    """Two processes of contrast-train in the working directory.

    Args:
        prepare: is called in the second one.

    Returns:
        Exit code and output of each.
    """
    pids, outputs, port = [], [Path(f"output_{rank}") for rank in (0, 1)], str(free_port())
    for rank, output in enumerate(outputs):
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        if launcher == "slurm":
            environment = {"SLURM_NTASKS": "2", "SLURM_NODELIST": "one", "SLURM_PROCID": str(rank)}
        arguments = (file, "--launcher", launcher, "--auto_resume")
        pids.append(forked(output, _child, environment, arguments, prepare if rank == 1 else lambda: None))
    return [(exit_code(pid), output.read_text()) for pid, output in zip(pids, outputs, strict=True)]


def iterations(output: str) -> list[int]:
    return [int(number) for number in re.findall(r"iter:\s*(\d+), lr", output)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_pairs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


def test_a_second_interrupt_stops_at_once(folder, monkeypatch, log):
    """In the middle of an iteration: nothing is saved."""
    monkeypatch.setattr(SRModel, "feed_data", lambda self, data: [signal.raise_signal(signal.SIGINT) for _ in "12"])
    assert main(write_options(folder, "interrupted", "SRModel", 2)) == 130
    assert not any(line.startswith("Stopped") for line in log)
    assert list(Path("experiments/interrupted/training_states").iterdir()) == []


def test_two_processes_are_one_large_batch(folder, log):
    """On the CPU, over gloo: the same images, the gradients of a batch twice as large, each validation image once; and
    a run of two processes that was stopped in the middle goes on where it was."""
    assert main(write_options(folder, "one", "SRModel", 4)) == 0
    best = [re.findall(r"# \w+: .*", "\n".join(log))[-2:]]
    two = write_options(folder, "two", "SRModel", 2)
    # One of the two is asked; both stop.
    (code, first), other = run(two, prepare=lambda: at(3, lambda: signal.raise_signal(signal.SIGTERM)))
    assert code == other[0] == 0, first
    (code, second), other = run(two)
    assert code == other[0] == 0, second
    assert iterations(first) == [1, 2, 3] and iterations(second) == list(range(4, 11)) and iterations(other[1]) == []
    a, b = content(folder, run="one"), content(folder, run="two")
    assert set(a) == set(b)
    for key in a:
        torch.testing.assert_close(b[key], a[key], rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")
    # Rounding is all that differs.
    best.append(re.findall(r"# \w+: .*", second)[-2:])
    ours, theirs = ([float(number) for number in re.findall(r"[\d.]+", " ".join(lines))] for lines in best)
    assert ours == pytest.approx(theirs, rel=1e-3) and len(ours) == 6
    assert len(list(Path("experiments/two").glob("*.log"))) == 2


def test_a_killed_process_ends_all_and_the_run_resumes(folder, monkeypatch):
    lost = write_options(folder, "lost", "ContrastModel", 2, accumulate=2, clip_grad_norm=0.05)
    (code, first), other = run(lost, prepare=lambda: at(6, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    assert (code, other[0]) == (1, -signal.SIGKILL), first
    assert "error: another process of this run has ended or does not answer" in first
    assert "--auto_resume goes on from there" in first
    (code, second), other = run(lost)
    assert code == other[0] == 0, second
    assert "Resuming training from epoch: 1, iter: 4." in second and "World size (gpu number): 2" in second
    # Two processes, cut by a kill: still the weights of a run of one piece, started by Slurm.
    scontrol = folder / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 127.0.0.1\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    found = run(write_options(folder, "found", "ContrastModel", 2, accumulate=2, clip_grad_norm=0.05), "slurm")
    assert [code for code, _ in found] == [0, 0], found
    assert equal(content(folder, run="found"), content(folder, run="lost"))
