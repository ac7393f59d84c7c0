"""A section of the options that knows its path."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from contrast_arch.options import problems
from contrast_arch.options.problems import Path, Problem


@dataclass(frozen=True)
class Section:
    """Keys of an option file, which checks read and report on.

    Attributes:
        values: of the keys.
        path: to them.
    """

    values: dict
    path: Path = ()

    def __getitem__(self, key: str) -> Any:
        """Value of a key; None without one."""
        return self.values.get(key)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def __iter__(self) -> Iterator["Section"]:
        """Sections below this one."""
        return map(self.section, self.values)

    def section(self, *keys: str) -> "Section":
        """Section below this one; without keys where it is missing or ``~``."""
        values = self.values
        for key in keys:
            values = values.get(key) or {}
        return Section(values, (*self.path, *keys))

    def where(self, *keys: str) -> str:
        """Path of a key as messages show it."""
        return ": ".join((*self.path, *keys))

    def error(self, text: str, *keys: str) -> Problem:
        """An error in this section or at a key below it; the message begins with the path."""
        return problems.error((*self.path, *keys), f"{self.where(*keys)}: {text}")

    def warning(self, text: str, *keys: str) -> Problem:
        """A warning, see :meth:`error`."""
        return problems.warning((*self.path, *keys), f"{self.where(*keys)}: {text}")
