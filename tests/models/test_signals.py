import os
import signal
import threading

import pytest

from contrast_arch.models.signals import NOTHING, SAVE, STOP, Requests


@pytest.fixture
def requests():
    found = Requests()
    found.listen()
    yield found
    found.ignore()


def test_what_each_signal_asks_for(requests, capfd):
    assert requests.wanted == NOTHING
    os.kill(os.getpid(), signal.SIGUSR1)
    assert requests.wanted == SAVE
    requests.done()
    assert requests.wanted == NOTHING
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    requests.done()
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
    requests = Requests()
    requests.listen()
    assert [signal.getsignal(number) for number in numbers] == [requests._take] * 3
    requests.ignore()
    assert [signal.getsignal(number) for number in numbers] == before


def test_another_thread_leaves_them_alone():
    requests = Requests()
    thread = threading.Thread(target=requests.listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) != requests._take
