"""Problems that checks find, and their messages."""

from collections.abc import Iterable
from dataclasses import dataclass

from contrast_arch.errors import InputError

ERROR, WARNING = "error", "warning"
Path = tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """One finding."""

    message: str  # what is wrong, what is allowed, how to mend it
    path: Path | None = None  # of the key, sections first; None for the text of the file or the command line
    severity: str = ERROR  # where the run would fail or do other than written; WARNING where it may be meant
    ignored: bool = False  # of an error, True if BasicSR passes over what is written there
    line: int | None = None  # in the file, from 1

    @classmethod
    def at(cls, path: Path, text: str, severity: str = ERROR, ignored: bool = False, line=None) -> "Problem":
        """Make a finding about a key; the message begins with its path."""
        return cls(f"{': '.join(path)}: {text}", path, severity, ignored, line)

    @property
    def fatal(self) -> bool:
        """True if training must not start."""
        return self.severity == ERROR and not self.ignored

    def in_file(self, file: str) -> str:
        """Message as editors find it: ``FILE:LINE: error: MESSAGE``."""
        return f"{file}{'' if self.line is None else f':{self.line}'}: {self.severity}: {self.message}"


def raise_errors(problems: Iterable[Problem], file: str = "") -> None:
    """Raise an InputError with all problems with which training must not start, a line each."""
    # A key says where it stands, a line of text does not.
    lines = (
        problem.message if problem.path or problem.line is None else f"{file}, line {problem.line}: {problem.message}"
        for problem in problems
        if problem.fatal
    )
    if text := "\n".join(lines):
        raise InputError(text)
