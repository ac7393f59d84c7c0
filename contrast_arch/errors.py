"""Errors whose message is for the user as it stands."""

import difflib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterable

# Exit codes of contrast-train, as in sysexits.h: an unexpected error, and a run that hung.
CRASHED, NO_PROGRESS = 70, 75


class InputError(Exception):
    """Input that cannot be used; the message names it, what is expected and how to mend it."""

    code = 1


class TrainingStopped(InputError):
    """Training cannot go on; the message names the reason and the last good checkpoint."""


class WorkerLost(TrainingStopped):
    """A loader worker was killed: a crash, after which a run may start again."""

    code = CRASHED


def located(error: BaseException) -> str:
    """Describe an error of other code in a line, such as ``NameError: name 'x' is not defined (a.py:3)``."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {one_line(error)}{place}"


def one_line(error: BaseException) -> str:
    """Message of an error in a line; its type where there is none."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(word, known: Iterable, count: int = 3, cutoff: float = 0.6) -> list[str]:
    """List the known names that are most like a word."""
    return difflib.get_close_matches(str(word), [name for name in known if isinstance(name, str)], count, cutoff)


def hint(word, known: Iterable[str], otherwise: str = "") -> str:
    """Text with the known names most like a word, or all of them."""
    near = nearest(word, known)
    return f"did you mean {' or '.join(near)}?" if near else f"{otherwise}{', '.join(sorted(known))}"


def exit_code(call: Callable, *args) -> int:
    """Call, and print an :class:`InputError` as one line on stderr; of several processes on a machine the first prints.

    Characters that stdout and stderr cannot encode, as in file names, are printed as escapes from here on.

    Returns:
        The result of the call (0 for None), ``code`` of the error, or 130 where the user interrupted it.
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
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
