"""The errors whose message is meant for the user as it stands."""

import difflib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterable

# Exit codes of contrast-train, as in sysexits.h: an unexpected error, and a run that hung.
CRASHED, NO_PROGRESS = 70, 75


class InputError(Exception):
    """Something the user gave cannot be used; the message says what, what is expected and how to mend it."""

    code = 1


class TrainingStopped(InputError):
    """Training cannot go on; the message says why, and what to go on from."""


class WorkerLost(TrainingStopped):
    """A loader worker was killed: a crash, after which a run may start again."""

    code = CRASHED


def located(error: BaseException) -> str:
    """Describe an error of somebody else's code in a line, such as ``NameError: name 'x' is not defined (a.py:3)``."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename}:{error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def one_line(error: BaseException) -> str:
    """Message of an error in a line; its type where there is none."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(word, known: Iterable, count: int = 3, cutoff: float = 0.6) -> list[str]:
    """The names of some that are known to which a word that is not known is most alike."""
    return difflib.get_close_matches(str(word), [name for name in known if isinstance(name, str)], count, cutoff)


def hint(word, known: Iterable[str], otherwise: str = "") -> str:
    """The names nearest to one that is not known, or all that are known."""
    near = nearest(word, known)
    return f"did you mean {' or '.join(near)}?" if near else f"{otherwise}{', '.join(sorted(known))}"


def exit_code(call: Callable, *args) -> int:
    """Call, and say on stderr what the user gave that cannot be used.

    Of the processes of a training run on one machine, the first one speaks for all. From here on, characters that
    stdout and stderr cannot encode are printed as escapes, such as a file name's.

    Returns:
        What the call returns, 0 for None, or ``code`` of an :class:`InputError`, which is 1 but for a crash.
    """
    for stream in (sys.stdout, sys.stderr):
        # Streams of another kind (a notebook's, None without a terminal on Windows) encode nothing.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return call(*args) or 0
    except InputError as error:
        rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
        # TrainingStopped may concern one process alone.
        if isinstance(error, TrainingStopped) or rank == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        return error.code
