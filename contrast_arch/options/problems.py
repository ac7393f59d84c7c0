"""Problems that checks find, and their messages."""

from collections.abc import Iterable
from dataclasses import dataclass

from contrast_arch.errors import InputError

ERROR, WARNING, NOTE = "error", "warning", "note"
Path = tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        message: what is wrong, what is allowed, how to mend it.
        path: the key that it is about, sections first; None where it is about the text of the file or the command line.
        severity: "error" where the run would fail or do other than written, "warning" where it may be meant, "note"
            where the project may know better.
        ignored: of an error, whether BasicSR passes over what is written there.
        line: in the file, from 1; None where there is none.
    """

    message: str
    path: Path | None = None
    severity: str = ERROR
    ignored: bool = False
    line: int | None = None

    @property
    def fatal(self) -> bool:
        """True if training must not start."""
        return self.severity == ERROR and not self.ignored

    def in_file(self, file: str) -> str:
        """As editors find it: ``FILE:LINE: error: MESSAGE``."""
        place = file if self.line is None else f"{file}:{self.line}"
        return f"{place}: {self.severity}: {self.message}"

    def in_words(self, file: str) -> str:
        """As the trainer says it: a key says where it stands, a line of text does not."""
        return self.message if self.path is not None or self.line is None else f"{file}, line {self.line}: {self}"

    def __str__(self):
        return self.message


def error(path: Path | None, message: str, ignored: bool = False) -> Problem:
    """A finding with which the run would fail or do other than written."""
    return Problem(message, path, ERROR, ignored)


def warning(path: Path | None, message: str) -> Problem:
    """A finding that may be meant."""
    return Problem(message, path, WARNING)


def note(path: Path | None, message: str) -> Problem:
    """A finding about what a project may read that BasicSR's releases do not."""
    return Problem(message, path, NOTE)


def raise_errors(problems: Iterable[Problem], file: str) -> None:
    """
    Raises:
        InputError: all problems with which training must not start, a line each.
    """
    messages = [problem.in_words(file) for problem in problems if problem.fatal]
    if messages:
        raise InputError("\n".join(messages))
