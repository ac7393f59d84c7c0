"""Starts after a crash, with processes that only end in some way."""

import re
import signal
import subprocess
import sys

import pytest

from contrast_arch import pipeline, train

SECONDS = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING: "


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with an option file and the folder of a run; signals are given back."""
    before = {number: signal.getsignal(number) for number in pipeline.TAKEN}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yml").write_text("name: tiny\n")
    (tmp_path / "experiments/tiny/training_states").mkdir(parents=True)
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["contrast-train", "-opt", "a.yml", *arguments])
    return pipeline.run(is_train=True)


@pytest.fixture
def ends(folder, monkeypatch):
    """Ends of the processes: (exit code, iteration of the state that they save or None).

    Returns:
        A function that runs contrast-train over them; it gives the exit code, what each was started with, and the
        pauses in seconds.
    """

    def call(ends, *arguments, name="tiny"):
        commands, pauses, ends = [], [], iter(ends)

        class Process:
            def __init__(self, command):
                assert command[:3] == [sys.executable, "-m", "contrast_arch.train"]
                commands.append(command[3:])

            def wait(self):
                code, iteration = next(ends)
                if iteration is not None:
                    states = folder / "experiments" / name / "training_states"
                    states.mkdir(parents=True, exist_ok=True)
                    (states / f"{iteration}.state").touch()
                return code

        class Event(pipeline.threading.Event):
            def wait(self, seconds):
                pauses.append(seconds)

        monkeypatch.setattr(pipeline.subprocess, "Popen", Process)
        monkeypatch.setattr(pipeline.threading, "Event", Event)
        code = run(monkeypatch, *arguments)
        assert next(ends, None) is None
        return code, commands, pauses

    return call


def test_a_start_after_each_crash(folder, ends, capfd):
    """The first one anew, as it was asked for; from the newest state once there is one."""
    codes = [(-9, None), (75, 100), (70, None), (0, None)]
    found = ends(codes, "--restarts", "2", "--force_yml", "scale=4", "--progress")
    given = ["-opt", "a.yml", "--restarts", "2", "--force_yml", "scale=4", "--progress", "--restarts", "0"]
    assert found == (0, [given, given, *[[*given, "--auto_resume"]] * 2], [10, 10, 20])
    assert re.fullmatch(
        rf"{SECONDS}Crashed: ended by signal 9 \(Killed\); restart 1 of 2 in 10 seconds\.\n"
        rf"{SECONDS}Crashed: it made no progress \(train: watchdog_minutes\); restart 1 of 2 in 10 seconds\.\n"
        rf"{SECONDS}Crashed: unexpected error, see its traceback; restart 2 of 2 in 20 seconds\.\n",
        capfd.readouterr().err,
    )


def test_the_budget_and_the_longest_pause(folder, ends, capfd):
    """States of an earlier run are none of this one, and a state that stays as it is is no progress."""
    (folder / "experiments/tiny/training_states/90.state").touch()
    code, commands, pauses = ends([(-11, None)] * 9, "--auto_resume", "--restarts", "8")
    assert code == 128 + 11 and pauses == [10, 20, 40, 80, 160, 320, 600, 600]
    assert commands == [["-opt", "a.yml", "--auto_resume", "--restarts", "8", "--restarts", "0"]] * 9
    last = "Crashed: ended by signal 11 (Segmentation fault); no restart is left, 8 have brought no newer state.\n"
    assert capfd.readouterr().err.endswith(last)


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_what_is_no_crash(folder, ends, capfd, code):
    """The end, a stop, bad input, a wrong command line and Ctrl-C."""
    assert ends([(code, None)], "--restarts", "3") == (
        code,
        [["-opt", "a.yml", "--restarts", "3", "--restarts", "0"]],
        [],
    )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "name, arguments",
    [("other", "--force_yml name=other"), ("debug_tiny", "--debug"), ("debug_a", "--debug --force_yml name=debug_a")],
)
def test_the_folder_of_the_run(ends, name, arguments):
    """Its name may be changed by the command line; a state there is gone on from."""
    _, commands, _ = ends([(-9, 100), (0, None)], "--restarts", "1", *arguments.split(), name=name)
    assert [command[-1] for command in commands] == ["0", "--auto_resume"]


def start(monkeypatch, program):
    """Start a program in place of a training."""
    popen = subprocess.Popen
    monkeypatch.setattr(pipeline.subprocess, "Popen", lambda command: popen([sys.executable, "-c", program]))


@pytest.mark.parametrize("number, passed_on", [("SIGINT", "SIGTERM"), ("SIGTERM", "SIGTERM"), ("SIGUSR1", "SIGUSR1")])
def test_signals_are_passed_on(folder, monkeypatch, number, passed_on):
    """Ctrl-C as SIGTERM: a terminal sends it to the training too, and two of it end that at once. After a stop there is
    no restart, after a request for a state there is; a stop in the pause before it ends the run."""
    start(
        monkeypatch,
        f"""
import os, signal, time
signal.signal(signal.{passed_on}, lambda *_: os._exit(77))
os.kill(os.getppid(), signal.{number})
time.sleep(30)
""",
    )
    said = []
    monkeypatch.setattr(pipeline, "_say", lambda text: said.append(text) or signal.raise_signal(signal.SIGTERM))
    assert run(monkeypatch, "--restarts", "3") == 77
    assert said == ["Crashed: exit code 77; restart 1 of 3 in 10 seconds."] * (number == "SIGUSR1")


@pytest.mark.parametrize("arguments", ["3 --launcher slurm", "-1 --launcher none"])
def test_refused_arguments(folder, monkeypatch, capsys, arguments):
    assert run(monkeypatch, "--restarts", *arguments.split()) == 1
    error = "expected 0 or more, and no launcher: one process alone would wait for the others"
    assert capsys.readouterr().err.startswith(f"error: --restarts {arguments}: {error}")


def test_an_unexpected_error(monkeypatch, log):
    """Exit code 70, and the traceback goes into the log of the run too."""

    def fail(is_train):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(train, "run", fail)
    assert train.main() == 70 and log == ["Unexpected error"]
