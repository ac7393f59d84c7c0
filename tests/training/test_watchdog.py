"""Runs that hang, in processes of their own: each ends by itself, with the stacks of its threads."""

import re
import signal

import pytest

from tests.conftest import run_python

HANGS = """
import ctypes, faulthandler, sys, threading, time
from contrast_arch.training import watchdog

def other_thread():
    time.sleep(60)

def hangs():
    HOW

watchdog.GRACE = 0.3
dog = watchdog.Watchdog(1 / 60, "run.log", rank=3)
dog.start()
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
        r"[-\d]+ [:\d]+,000 ERROR: Process 3 has made no progress for 0\.0166667 minutes \(train: watchdog_minutes\) "
        r"and ends with exit code 75\. Its threads:",
        line,
    )
    assert [sum(f"in {name}" in line for line in stacks) for name in ("hangs", "other_thread")] == [1, 1]


def test_a_hang_that_keeps_pythons_lock(tmp_path):
    code, log, _ = run(tmp_path, HANGS.replace("HOW", "ctypes.PyDLL(None).sleep(60)"))
    assert code == -signal.SIGALRM and "in hangs" in log and "in other_thread" in log


@pytest.mark.parametrize("minutes", ["1 / 60", "0"])
def test_no_hang(tmp_path, minutes):
    """After its end, and for 0 minutes, nothing is watched."""
    end = "dog.stop(); time.sleep(1.5)" if minutes != "0" else "time.sleep(1.5)"
    program = HANGS.replace("HOW", end).replace("Watchdog(1 / 60", f"Watchdog({minutes}")
    assert run(tmp_path, program) == (0, "before\n", "")


TRAINING = """
import os, signal, threading, traceback
from pathlib import Path

import contrast_arch
from basicsr.data.paired_image_dataset import PairedImageDataset
from torch import distributed

from contrast_arch.training.loop import Trainer
from tests.training.building import run_options, seed_all
from tests.training.test_loop import at

worker = run_options(Path("worker"), train={"watchdog_minutes": 0.05})
worker["datasets"]["train"]["num_worker_per_gpu"] = 1
stopped = run_options(Path("stopped")) | {"dist": True, "world_size": 2}

def train(opt, prepare=lambda trainer: None):
    seed_all()
    trainer = Trainer(opt, ("options.yml", "name: tiny\\n"))
    prepare(trainer)
    trainer.run()

def deadlocked_worker(rank):
    lock = threading.Lock()
    PairedImageDataset.__getitem__ = lambda self, index: lock.acquire() and lock.acquire()
    train(worker)

def stopped_process(rank):
    def prepare(trainer):
        assert trainer.watchdog.minutes == 30
        trainer.watchdog.minutes = 0.05
        if rank == 1:
            at(trainer, 3, lambda: os.kill(os.getpid(), signal.SIGSTOP))

    distributed.init_process_group("gloo", init_method=f"file://{Path('group').absolute()}", rank=rank, world_size=2)
    train(stopped | {"rank": rank}, prepare)

def fork(call, rank):
    pid = os.fork()
    if pid == 0:
        try:
            call(rank)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    return pid

pids = [fork(deadlocked_worker, 0), fork(stopped_process, 0), fork(stopped_process, 1)]
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids[:2]]
os.kill(pids[2], signal.SIGKILL)
print("codes", *codes)
"""


def test_a_deadlocked_worker_and_a_stopped_process(tmp_path):
    """A worker that stayed would keep stdout open, for which this test waits. A process that has died is noticed by the
    others (test_processes)."""
    result = run_python(tmp_path, "-c", TRAINING)
    assert result.stdout.endswith("codes 75 75\n"), result.stderr
    for name, waits_in in (("worker", "in _next_data"), ("stopped", "in all_reduce")):
        (log,) = (tmp_path / name).rglob("train_tiny_*.log")
        _, _, stacks = log.read_text().partition("ERROR: Process 0 has made no progress for 0.05 minutes")
        assert waits_in in stacks and "training/loop.py" in stacks, name
