"""Runs that hang, in processes of their own: each ends by itself, with the stacks of its threads."""

import os
import re
import signal
import threading

from basicsr.data.paired_image_dataset import PairedImageDataset
from torch import distributed

from contrast_arch.training.loop import Trainer
from contrast_arch.training.signals import Watchdog
from tests.conftest import run_python
from tests.training.building import at, exit_code, forked, run_options, seed_all

HANGS = """
import ctypes, faulthandler, sys, threading, time
from contrast_arch.training import signals

def other_thread():
    time.sleep(60)

def hangs():
    HOW

signals.GRACE = 0.3
dog = signals.Watchdog(1 / 60, "run.log", rank=3)
dog.__enter__()
for _ in range(4):
    time.sleep(0.3)
    dog.progress()
threading.Thread(target=other_thread, daemon=True).start()
hangs()
"""


def run(tmp_path, program):
    (tmp_path / "run.log").write_text("before\n")
    result = run_python(tmp_path, "-c", program)
    return result.returncode, (tmp_path / "run.log").read_text(), result.stderr


def test_a_hang_ends_with_75(tmp_path):
    code, log, error = run(tmp_path, HANGS.replace("HOW", "time.sleep(60)"))
    first, line, *stacks = log.splitlines()
    assert code == 75 and first == "before" and error.splitlines() == [line, *stacks]
    assert re.fullmatch(
        r"[-\d]+ [:\d]+,000 ERROR: Process 3 has made no progress for 0\.0166667 minutes \(train: watchdog_minutes\), "
        r"exit code 75\. Its threads:",
        line,
    )
    assert [sum(f"in {name}" in line for line in stacks) for name in ("hangs", "other_thread")] == [1, 1]


def test_a_hang_that_keeps_pythons_lock(tmp_path):
    code, log, _ = run(tmp_path, HANGS.replace("HOW", "ctypes.PyDLL(None).sleep(60)"))
    assert code == -signal.SIGALRM and "in hangs" in log and "in other_thread" in log


def test_no_hang(tmp_path):
    """After its end, and for 0 minutes, nothing is watched."""
    assert run(tmp_path, HANGS.replace("HOW", "dog.__exit__(); time.sleep(1.5)")) == (0, "before\n", "")
    with Watchdog(0, tmp_path / "run.log"):
        assert not any(thread.name == "watchdog" for thread in threading.enumerate())


def train(opt, prepare=lambda trainer: None) -> int:
    seed_all()
    trainer = Trainer(opt, ("options.yml", "name: tiny\n"))
    prepare(trainer)
    trainer.run()
    return 0


def deadlocked_worker(opt):
    lock = threading.Lock()
    PairedImageDataset.__getitem__ = lambda self, index: lock.acquire() and lock.acquire()
    return train(opt)


def stopped_process(opt, group):
    def prepare(trainer):
        assert trainer.watchdog.minutes == 30
        trainer.watchdog.minutes = 0.05
        if opt["rank"] == 1:
            at(trainer, 3, lambda: os.kill(os.getpid(), signal.SIGSTOP))

    distributed.init_process_group("gloo", init_method=f"file://{group}", rank=opt["rank"], world_size=2)
    return train(opt, prepare)


def test_a_deadlocked_worker_and_a_stopped_process(tmp_path):
    """A process that has died is noticed by the others (test_processes)."""
    worker = run_options(tmp_path / "worker", train={"watchdog_minutes": 0.05})
    worker["datasets"]["train"]["num_worker_per_gpu"] = 1
    stopped, group = run_options(tmp_path / "stopped") | {"dist": True, "world_size": 2}, tmp_path / "group"
    pids = [forked(tmp_path / "output", deadlocked_worker, worker)]
    pids += [forked(tmp_path / f"output_{rank}", stopped_process, stopped | {"rank": rank}, group) for rank in (0, 1)]
    codes = [exit_code(pid) for pid in pids[:2]]
    os.kill(pids[2], signal.SIGKILL)
    exit_code(pids[2])
    assert codes == [75, 75], [path.read_text() for path in tmp_path.glob("output*")]
    for name, waits_in in (("worker", "in _next_data"), ("stopped", "in all_reduce")):
        (log,) = (tmp_path / name).rglob("train_tiny_*.log")
        _, _, stacks = log.read_text().partition("ERROR: Process 0 has made no progress for 0.05 minutes")
        assert waits_in in stacks and "training/loop.py" in stacks, name
