"""The text of an option file: the values that BasicSR reads in it, the line of each key, and what is found wrong."""

import ast
import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import yaml

from contrast_arch.errors import InputError, one_line
from contrast_arch.parsing import check_aliases

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


class UnreadableError(InputError):
    """An option file of which nothing can be read; ``problem`` is why, without the name of the file."""

    def __init__(self, file: str, reason: str, line: int | None = None):
        super().__init__(f"{file}{'' if line is None else f', line {line}'}: {reason}")
        self.problem = Problem(reason, line=line)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """BasicSR's loader without its import, and without tags that run code: pairs as they stand, no merge keys."""


_Loader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG,
    lambda own, node: {str(key): value for key, value in own.construct_pairs(node)},
)
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda own, node: tuple(own.construct_sequence(node)))


@dataclass(frozen=True)
class Document:
    """An option file."""

    options: dict  # as BasicSR reads them
    lines: dict[Path, int]  # of each key, from 1
    problems: list[Problem]  # keys that stand twice, or are no text

    def line(self, path: Path) -> int:
        """Line of a key, of its section where it is not there."""
        return self.lines.get(path, self.line(path[:-1]) if path else 1)


def read_document(file: str) -> Document:
    """Read an option file with its lines; UnreadableError where there is none, or no mapping in YAML."""
    text, lines, problems = "", {}, []
    try:
        with open(file) as opened:
            text = opened.read()
        loader = _Loader(text)
        root = loader.get_single_node()
        for path, key in _keys(root, (), set()):
            line = key.start_mark.line + 1
            if path in lines:
                problems.append(Problem(f"{path[-1]!r} stands already in line {lines[path]}; keep one", line=line))
            if key.tag != yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG:
                text_key = "a key that is no text, which BasicSR cannot print; quote it"
                problems.append(Problem.at(path, text_key, line=line))
            lines[path] = line
        check_aliases(root)
        options = loader.construct_document(root) if root else None
    except OSError as error:
        raise UnreadableError(file, error.strerror) from error
    except Exception as error:  # PyYAML's own, and those of Python's conversions
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = None if mark is None else mark.line + 1
        raise UnreadableError(file, f"not readable as YAML: {_reason(error, text, line)}", line) from error
    if not isinstance(options, dict):
        raise UnreadableError(file, "no options: expected 'key: value' lines")
    return Document(options, lines, problems)


def _reason(error, text, line):
    reason = ", ".join(filter(None, (getattr(error, "context", ""), getattr(error, "problem", "")))) or one_line(error)
    if "2002:merge" in reason:
        return "BasicSR's reader takes no merge keys (<<: *name); write the keys out"
    # PyYAML's own message often does not name it.
    if line is not None and re.match(r" *\t", "".join(text.splitlines()[line - 1 : line])):
        reason += "; the line is indented with a tab, and YAML takes spaces only: replace the tab by spaces"
    return reason


def _keys(node, path, visited) -> Iterator[tuple[Path, yaml.Node]]:
    """Yield path and node of every key; aliases count where their anchors are."""
    if isinstance(node, yaml.MappingNode) and id(node) not in visited:
        visited.add(id(node))
        for key, value in node.value:
            own = (*path, str(key.value if isinstance(key, yaml.ScalarNode) else key.start_mark))
            yield own, key
            yield from _keys(value, own, visited)


def read_options(path: str) -> dict:
    """Read an option file as BasicSR does; InputError also for keys that stand twice."""
    document = read_document(path)
    raise_errors(document.problems, path)
    return document.options


def forced(options: dict, entries) -> dict:
    """Return options with the changes of ``--force_yml``, read as BasicSR reads them; InputError where it cannot."""
    options = deepcopy(options)
    for entry in entries:
        # Importing BasicSR takes seconds.
        from basicsr.utils.options import _postprocess_yml_value

        # BasicSR makes a line of Python of the keys, and runs it.
        match, section = re.fullmatch(r"""([^=:"'\\]+(?::[^=:"'\\]+)*)=([^=]*)""", entry), options
        if match is None:
            raise InputError(f"--force_yml {entry}: expected key:key=value, such as train:total_iter=1000")
        *parents, last = (key.strip() for key in match[1].split(":"))
        value = match[2].strip()
        for key in parents:
            section = section.get(key)
            if not isinstance(section, dict):
                raise InputError(f"--force_yml {entry}: the option file has no section {key!r} there")
        try:
            # BasicSR evaluates lists as Python, and would run code in them.
            section[last] = ast.literal_eval(value) if value.startswith("[") else _postprocess_yml_value(value)
        except Exception as error:
            raise InputError(f"--force_yml {entry}: the value cannot be read: {error}") from error
    return options
