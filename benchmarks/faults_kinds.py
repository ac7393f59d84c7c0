"""Faults: what is done to a run at a random moment."""

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import time
from functools import partial

from faults_runs import Fault, Run, difference

from contrast_arch.errors import CRASHED, InputError
from contrast_arch.weights.files import read

WRITE, FSYNC, RENAME = 1, 2, 4


def _kill(run, start):
    if len(start.pids) == 1 and run.random.random() < 0.5:
        os.kill(start.pids[0], signal.SIGKILL)  # as the system does when memory is short, not to the loader workers
    else:
        start.signal(signal.SIGKILL)
    return True


def _kill_rank(run, start):
    os.kill(run.random.choice(start.pids), signal.SIGKILL)
    return True


def _kill_worker(run, start):
    pid = start.pids[0]
    while start.lives():
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            workers = list(map(int, file.read().split()))
        if workers:  # between two epochs there is none
            os.kill(run.random.choice(workers), signal.SIGKILL)
            return True
    return False


def _stop(run, start):
    stopped = run.random.choice([start.pids, start.pids[-1:]])
    for number, seconds in ((signal.SIGSTOP, run.stop_seconds), (signal.SIGCONT, 0)):
        for pid in stopped:
            os.kill(pid, number)
        time.sleep(seconds)
    return True


def _control(run, start, *values):
    """Let ``struct control`` of faults_shim.c have these values until the start ends; return how many calls failed."""
    with open(run.control, "r+b", buffering=0) as file:
        file.write(struct.pack("5q", *values, *[0] * (5 - len(values))))
        start.wait()
        file.seek(0)
        failed = struct.unpack("5q", file.read(40))[4]
        file.seek(0)
        file.write(bytes(40))
    return failed


def _jump(run, start):
    _control(run, start, run.random.choice([-1, 1]) * run.random.randrange(3600, 48 * 3600))
    return True


def _one_error(run, start):
    """A save tries three times."""
    calls = run.random.choice([WRITE, FSYNC, RENAME])
    return (
        _control(run, start, 0, calls, run.random.randrange(30 if calls == WRITE else 4), run.random.randint(1, 2)) > 0
    )


def _dead_disk(run, start):
    return _control(run, start, 0, WRITE | FSYNC | RENAME, run.random.randrange(30), 1 << 40) > 0


def _full_disk(run, start):
    """All but a random rest is taken; afterwards it is free again."""
    ballast, free = run.work / "ballast", shutil.disk_usage(run.work).free
    with contextlib.suppress(OSError):
        ballast.write_bytes(bytes(max(0, free - run.random.randrange(150_000))))
    start.wait()
    ballast.unlink()
    return True


def _read_only_disk(run, start):
    """For all files that are opened from now on; a start on it has to end too."""
    side = run.options.with_name("read-only")
    side.mkdir(exist_ok=True)
    with mounted(side, "--bind", str(run.experiment)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(side)], check=True)
        with mounted(run.experiment, "--bind", str(side)):
            start.wait()
            run.look(type(start)(run), {1})
    return True


def _broken_image(run, start):
    """In a copy of the images, one is cut or gone until the start ends."""
    broken, link = run.images.with_name("broken"), run.images.with_name("link")
    shutil.copytree(run.images, broken, dirs_exist_ok=True)
    image = run.random.choice(sorted(broken.rglob("*.png")))
    os.truncate(image, image.stat().st_size - 60)
    if run.random.random() < 0.5:
        image.unlink()
    for target in (broken, run.images.resolve()):
        link.symlink_to(target)
        link.replace(run.images)
        start.wait()
    return True


def _damage(run: Run, cut: bool) -> bool:
    """Cut the newest state, or its checkpoint, at any place, or flip a bit; False if there is no state before it."""
    states = run.states()
    if len(states) < 2:
        return False
    names = f"training_states/{states[0]}.state", f"models/net_g_{states[0]}.pth"
    path = run.experiment / run.random.choice(names)
    before, data = read(path), bytearray(path.read_bytes())
    at = run.random.randrange(len(data))
    data[at] ^= 1 << run.random.randrange(8)
    path.write_bytes(data[:at] if cut else data)
    with contextlib.suppress(InputError):
        if difference(before, read(path)) is None:
            return True
    run.damaged[path], run.saved = path.read_bytes(), states[1]
    run.named.append(path)
    return True


@contextlib.contextmanager
def mounted(folder, *arguments: str):
    """Mount something on a folder for a while.

    Raises:
        subprocess.CalledProcessError: it cannot be mounted; one has to be root.
    """
    subprocess.run(["mount", *arguments, str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


FAULTS = {
    "SIGKILL": Fault(_kill, {-9}),
    "SIGKILL of a rank": Fault(_kill_rank, {-9, 1}),
    "SIGKILL of a loader worker": Fault(_kill_worker, {CRASHED}),
    "SIGSTOP": Fault(_stop, set()),
    "clock jumps": Fault(_jump, set()),
    "disk errors once": Fault(_one_error, set()),
    "disk errors from then on": Fault(_dead_disk, {1}),
    "full disk": Fault(_full_disk, {1}),
    "read-only disk": Fault(_read_only_disk, {1}),
    "broken image": Fault(_broken_image, {1}),
    "flipped bit": Fault(_kill, {-9}, partial(_damage, cut=False)),
    "cut file": Fault(_kill, {-9}, partial(_damage, cut=True)),
}
