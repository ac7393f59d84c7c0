import multiprocessing
import os
import signal
import time

import pytest
from torch.utils.data import DataLoader

from contrast_arch.training.signals import NOTHING, SAVE, STOP, Requests, end_workers, leave_to_the_trainer


@pytest.fixture
def requests():
    with Requests() as found:
        yield found


def test_what_each_signal_asks_for(requests, capfd):
    assert requests.wanted == NOTHING
    os.kill(os.getpid(), signal.SIGUSR1)
    assert requests.wanted == SAVE
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert requests.wanted == STOP
    lines = capfd.readouterr().err.splitlines()
    assert lines[:2] == ["SIGUSR1: saving after this iteration", "SIGTERM: saving and stopping after this iteration"]


def test_a_second_interrupt_ends_at_once(requests, capfd):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert requests.wanted == STOP and "once more to stop at once" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_signals_are_given_back():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with Requests() as requests:
        assert [signal.getsignal(number) for number in numbers] == [requests._take] * 3
    assert [signal.getsignal(number) for number in numbers] == before


def test_ended_workers_leave_the_last_line_to_the_error():
    """PyTorch's handler would raise "DataLoader worker (pid ...) is killed by signal" from whatever runs next."""
    before = signal.getsignal(signal.SIGCHLD)
    images = iter(DataLoader(range(100), num_workers=2))
    next(images)
    end_workers()
    for _ in range(20):
        time.sleep(0.01)
    assert not [child for child in multiprocessing.active_children() if child.daemon]
    del images
    signal.signal(signal.SIGCHLD, before)


def works(ready):
    leave_to_the_trainer()
    ready.set()
    time.sleep(600)


def test_workers_end_with_the_trainer_and_not_before():
    ready = multiprocessing.Event()
    worker = multiprocessing.Process(target=works, args=(ready,), daemon=True)
    worker.start()
    assert ready.wait(30)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(worker.pid, number)
    worker.join(0.5)
    assert worker.is_alive()
    end_workers()
    worker.join(10)
    assert worker.exitcode == -signal.SIGKILL
