"""Runs in processes of their own: interrupted twice, by two processes, under Slurm, and with a process lost."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from contrast_arch import pipeline
from tests.conftest import ROOT, tiny_options, write_pairs

ITERATIONS = 30
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def write_options(root: Path, name: str, model_type: str = "ContrastModel", **changes) -> Path:
    """A run with all that has a state: averaged weights, a schedule, a warm-up, best metrics, an epoch of four
    iterations that the cuts fall into, and worker processes."""
    training = {"total_iter": ITERATIONS, "ema_decay": 0.9, "accumulate": 2, "warmup_iter": 6, "clip_grad_norm": 0.05}
    training["scheduler"] = {"type": "MultiStepLR", "milestones": [12, 20], "gamma": 0.5}
    enlarged = changes.pop("enlarged", 9)
    of_data = ("batch_size_per_gpu", "skip_unreadable", "num_worker_per_gpu", "prefetch_mode")
    data = {key: changes.pop(key) for key in list(changes) if key in of_data}
    options = tiny_options(
        root,
        name=name,
        model_type=model_type,
        train=training | changes.pop("train", {}),
        val={"val_freq": 7},
        logger={"save_checkpoint_freq": 1000},
        **changes,
    )
    own = {"num_worker_per_gpu": 1, "batch_size_per_gpu": 2, "dataset_enlarge_ratio": enlarged}
    options["datasets"]["train"] |= own | data
    path = root / f"{name}.yml"
    path.write_text(yaml.safe_dump(options))
    return path


def start(options: Path, processes: int = 1) -> subprocess.Popen:
    command = [sys.executable]
    arguments = ["-opt", str(options), "--auto_resume"]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        arguments += ["--launcher", "pytorch"]
    return subprocess.Popen(
        [*command, "-m", "contrast_arch.train", *arguments],
        cwd=options.parent,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(options: Path, processes: int = 1, **at) -> tuple[int, str]:
    """A run to its end; ``at`` maps "iN" to what is called with the process once iteration N is in the log.

    Returns:
        Exit code and output.
    """
    process, lines = start(options, processes), []
    due = {int(key[1:]): call for key, call in at.items()}
    try:
        for line in process.stdout:
            lines.append(line)
            found = re.search(r"iter:\s*(\d+), lr", line)
            for iteration in [i for i in due if found and int(found[1]) >= i]:
                due.pop(iteration)(process)
        return process.wait(timeout=300), "".join(lines)
    finally:
        process.kill()


def sends(number):
    return lambda process: process.send_signal(number)


def children(process) -> list[int]:
    """The processes that torchrun started, by rank."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    found = [int(pid) for pid in text.split()]
    return [pid for pid in found if "contrast_arch.train" in Path(f"/proc/{pid}/cmdline").read_text()]


def weights(root: Path, name: str) -> dict:
    content = torch.load(root / "experiments" / name / "models" / "net_g_latest.pth", weights_only=True)
    kinds = ("params", "params_ema")
    return {f"{kind}.{key}": value for kind in kinds for key, value in content.get(kind, {}).items()}


def differing(a: dict, b: dict) -> list[str]:
    assert set(a) == set(b)
    return [key for key in a if not torch.equal(a[key], b[key])]


def best(output: str) -> list[str]:
    """The validation lines at the end of a run: every metric, and when it was best."""
    return re.findall(r"# \w+: .*", output)[-2:]


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"[\d.]+", line)]


def iterations(output: str) -> list[int]:
    return [int(i) for i in re.findall(r"iter:\s*(\d+), lr", output)]


def test_a_second_interrupt_stops_at_once(tmp_path):
    """In the middle of an iteration, which takes seconds here."""
    write_pairs(tmp_path)
    settings = {"total_iter": 100, "accumulate": 1}
    options = write_options(tmp_path, "interrupted", train=settings, enlarged=10_000, batch_size_per_gpu=1500)
    process, output = start(options), ""
    for line in process.stdout:
        output += line
        if "iter:       1, lr" in line:
            # The next iteration has begun by then, and is far from its end.
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
        if line.startswith("SIGINT: saving and stopping after this iteration; once more to stop at once"):
            process.send_signal(signal.SIGINT)
            break
    output += process.stdout.read()
    assert process.wait(timeout=60) == 130, output
    assert output.endswith("stopped\n") and "Stopped as asked to" not in output
    assert list((tmp_path / "experiments" / "interrupted" / "training_states").iterdir()) == []


@pytest.mark.parametrize("model_type", ["SRModel"])
def test_two_processes_are_one_large_batch(tmp_path, monkeypatch, log, model_type):
    """On the CPU, over gloo: the same images, the gradients of a batch twice as large, each validation image once; and
    a run of two processes that was stopped in the middle goes on where it was."""
    root = tmp_path
    write_pairs(root)
    plain = {"total_iter": 16, "accumulate": 1, "clip_grad_norm": None}
    write_options(root, "one", model_type, train=plain, batch_size_per_gpu=4, num_worker_per_gpu=0)
    # Several processes start their workers anew, with all imports, in every epoch.
    two = write_options(root, "two", model_type, train=plain, batch_size_per_gpu=2, num_worker_per_gpu=0)
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.argv", ["contrast-train", "-opt", "one.yml"])
    assert pipeline.run(is_train=True) == 0
    alone = "\n".join(log)
    # One of the two is asked; both stop.
    code, first = run(two, processes=2, i5=lambda process: os.kill(children(process)[1], signal.SIGTERM))
    assert code == 0, first
    code, second = run(two, processes=2)
    assert code == 0, second
    assert iterations(first) + iterations(second) == list(range(1, 17))
    a, b = weights(root, "one"), weights(root, "two")
    assert set(a) == set(b)
    for key in a:
        torch.testing.assert_close(b[key], a[key], rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")
    # Rounding is all that differs.
    for ours, theirs in zip(best(second), best(alone), strict=True):
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-3)
    assert len(list((root / "experiments" / "two").glob("*.log"))) == 2


def run_under_slurm(options, tmp_path):
    """As srun would: a process for each of two tasks, known by its environment; scontrol names the host."""
    settings = yaml.safe_load(options.read_text())
    settings["dist_params"] = {"backend": "nccl", "port": 29571}
    options.write_text(yaml.safe_dump(settings))
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 127.0.0.1\n")
    scontrol.chmod(0o755)
    environment = ENVIRONMENT | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_NTASKS": "2",
        "SLURM_NODELIST": "one",
    }
    command = [sys.executable, "-m", "contrast_arch.train", "-opt", str(options), "--launcher", "slurm"]
    tasks = [
        subprocess.Popen(
            command,
            cwd=options.parent,
            env=environment | {"SLURM_PROCID": task, "SLURM_LOCALID": task},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for task in "01"
    ]
    outputs = [task.communicate(timeout=300)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    assert iterations(outputs[1]) == [] and "World size (gpu number): 2" in outputs[0]


def test_a_killed_process_ends_all_and_the_run_resumes(tmp_path):
    root = tmp_path
    write_pairs(root)
    options = write_options(root, "lost", train={"accumulate": 1, "total_iter": 120}, num_worker_per_gpu=0)
    settings = yaml.safe_load(options.read_text())
    settings["logger"]["save_checkpoint_freq"] = 4
    options.write_text(yaml.safe_dump(settings))
    killed = []

    def kill(process):
        os.kill(children(process)[1], signal.SIGKILL)
        killed.append(time.monotonic())

    code, first = run(options, processes=2, i10=kill)
    assert code != 0 and time.monotonic() - killed[0] < 60
    assert "error: another process of this run has ended or does not answer" in first
    assert "--auto_resume goes on from there" in first and "Signal 9 (SIGKILL)" in first
    code, second = run(options, processes=2)
    assert code == 0, second
    (resumed,) = re.findall(r"Resuming training from epoch: \d+, iter: (\d+)\.", second)
    assert 8 <= int(resumed) < 120 and int(resumed) % 4 == 0
    # Two processes, cut by a kill: still the weights of a run of one piece, started by Slurm.
    run_under_slurm(
        write_options(root, "found", train={"accumulate": 1, "total_iter": 120}, num_worker_per_gpu=0), tmp_path
    )
    assert differing(weights(root, "found"), weights(root, "lost")) == []
