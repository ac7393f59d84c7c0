"""Errors in a line: of a crash, and with names of files that stdout and stderr cannot encode, in every command."""

import io
import multiprocessing
import signal
import sys
import time
from unittest.mock import Mock

import pytest
import yaml

from contrast_arch import cli, train
from contrast_arch import test as testing
from contrast_arch.errors import exit_code
from contrast_arch.training.distributed import lost_processes
from tests.conftest import tiny_options, write_pairs

NAME = "ä\udce9.yml"  # its last byte is no UTF-8
PRINTED = r"\xe4\udce9.yml"


def ascii_stream(monkeypatch, name):
    """Replace ``sys.stdout`` or ``sys.stderr`` by one of ASCII that refuses all else, in the body of a test only."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, name, stream)
    return stream.buffer


def test_a_loader_worker_that_was_killed(capsys):
    """A crash, after which --restarts starts again, in a line; the other workers are ended before it is printed."""
    other = multiprocessing.Process(target=time.sleep, args=(60,), daemon=True)
    other.start()

    def lose():
        with lost_processes():
            raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. ")

    assert exit_code(lose) == 70 and other.exitcode == -signal.SIGKILL
    assert capsys.readouterr().err == (
        "error: a process that loads images is gone (DataLoader worker (pid 5) is killed by signal: Killed), most "
        "often for lack of memory; give fewer workers (datasets: train: num_worker_per_gpu) or smaller images. What is "
        "saved is whole: the same command with --auto_resume goes on from there\n"
    )


def test_a_loader_worker_that_was_killed_as_it_handed_over_an_image(capsys):
    """The main process sees a pipe that ends."""

    def lose():
        here, there = multiprocessing.Pipe()
        there.close()
        with lost_processes():
            here.recv()

    assert exit_code(lose) == 70
    assert "error: a process that loads images is gone (EOFError), most often" in capsys.readouterr().err


def test_a_loader_worker_whose_signal_comes_late(capsys, monkeypatch):
    """PyTorch's handler of SIGCHLD raises while the end of the pipe is being read."""
    late = RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. ")
    monkeypatch.setattr("traceback.format_tb", Mock(side_effect=[late, []]))

    def lose():
        with lost_processes():
            raise ConnectionResetError(104, "Connection reset by peer")

    assert exit_code(lose) == 70
    assert capsys.readouterr().err.startswith("error: a process that loads images is gone (DataLoader worker (pid 5)")


def test_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stdout = ascii_stream(monkeypatch, "stdout")
    assert cli.main(["check", "-opt", NAME]) == 1
    assert stdout.getvalue().decode() == f"{PRINTED}: error: No such file or directory\n1 error\n"


def test_check_of_images(tmp_path, monkeypatch):
    """The names stand in what is found about the data."""
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path, count=2)
    (tmp_path / "HR" / "0.png").rename(tmp_path / "HR" / "ä\udce9.png")
    (tmp_path / "a.yml").write_text(yaml.safe_dump(tiny_options(tmp_path)))
    stdout = ascii_stream(monkeypatch, "stdout")
    assert cli.main(["check", "-opt", "a.yml"]) == 1
    assert r"\xe4\udce9x4.png is not in " in stdout.getvalue().decode()


@pytest.mark.parametrize("command", [train, testing])
def test_training_and_tests(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["contrast", "-opt", NAME])
    stderr = ascii_stream(monkeypatch, "stderr")
    assert command.main() == 1
    assert stderr.getvalue().decode() == f"error: {PRINTED}: No such file or directory\n"


def test_streams_that_encode_nothing(tmp_path, monkeypatch):
    """A notebook's, and none at all."""
    monkeypatch.chdir(tmp_path)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["check", "-opt", NAME]) == 1
    assert stream.getvalue().startswith(f"{NAME}: error: ")
