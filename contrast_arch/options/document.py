"""The text of an option file: the values that BasicSR reads in it, and the line of each key."""

import ast
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import yaml

from contrast_arch.errors import InputError, one_line
from contrast_arch.options.problems import Path, Problem, raise_errors
from contrast_arch.parsing import check_aliases


class UnreadableError(InputError):
    """An option file of which nothing can be read; ``problem`` is why, without the name of the file."""

    def __init__(self, file: str, reason: str, line: int | None = None):
        super().__init__(f"{file}{'' if line is None else f', line {line}'}: {reason}")
        self.problem = Problem(reason, line=line)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """BasicSR's loader without its import, and without tags that run code: pairs as they stand, no merge keys."""


_Loader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, lambda own, node: dict(own.construct_pairs(node))
)
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda own, node: tuple(own.construct_sequence(node)))


@dataclass(frozen=True)
class Document:
    """An option file.

    Attributes:
        options: as BasicSR reads them.
        lines: of each key, from 1.
        problems: keys that stand twice.
    """

    options: dict
    lines: dict[Path, int]
    problems: list[Problem]

    def line(self, path: Path) -> int:
        """Line of a key, of its section where it is not there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_document(file: str) -> Document:
    """Read an option file with its lines.

    Raises:
        UnreadableError: no such file, not YAML, or not a mapping.
    """
    text, lines, problems = "", {}, []
    try:
        with open(file) as opened:
            text = opened.read()
        loader = _Loader(text)
        root = loader.get_single_node()
        for path, line, earlier in _keys(root, (), set()):
            if earlier:
                problems.append(Problem(f"{path[-1]!r} stands already in line {earlier}; keep one", line=line))
            lines[path] = line
        check_aliases(root)
        options = loader.construct_document(root) if root else None
    except OSError as error:
        raise UnreadableError(file, error.strerror) from error
    except Exception as error:  # PyYAML's own, and those of Python's conversions
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = None if mark is None else mark.line + 1
        raise UnreadableError(file, f"not readable as YAML: {_reason(error)}{_of_tab(text, line)}", line) from error
    if not isinstance(options, dict):
        raise UnreadableError(file, "no options: expected 'key: value' lines")
    return Document(options, lines, problems)


def _reason(error):
    if not isinstance(error, yaml.MarkedYAMLError):
        return one_line(error)
    reason = ", ".join(filter(None, (error.context, error.problem)))
    return "BasicSR's reader takes no merge keys (<<: *name); write the keys out" if "2002:merge" in reason else reason


def _of_tab(text, line):
    """End of a message about a line that is indented with a tab, which PyYAML's own often does not name."""
    indented = "" if line is None else "".join(text.splitlines()[line - 1 : line])
    if "\t" not in indented[: len(indented) - len(indented.lstrip())]:
        return ""
    return "; the line is indented with a tab, and YAML takes spaces only: replace the tab by spaces"


def _keys(node, path, visited) -> Iterator[tuple[Path, int, int | None]]:
    """Yield path, line and the earlier line in the same section of every key; aliases count where their anchors are."""
    if node is None or id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines = {}
        for key, value in node.value:
            name, line = str(key.value if isinstance(key.value, str) else key.start_mark), key.start_mark.line + 1
            yield (*path, name), line, lines.get(name)
            lines[name] = line
            yield from _keys(value, (*path, name), visited)


def read_options(path: str) -> dict:
    """Read an option file as BasicSR does.

    Raises:
        InputError: no such file, not YAML, not a mapping, or keys that stand twice (BasicSR would silently take the
            last).
    """
    document = read_document(path)
    raise_errors(document.problems, path)
    return document.options


def forced(options: dict, entries) -> dict:
    """Return options with the changes of ``--force_yml``, read as BasicSR reads them.

    Raises:
        InputError: an entry that is not ``key:key=value``, or a section that is not there.
    """
    options = deepcopy(options)
    for entry in entries:
        # Importing BasicSR takes seconds.
        from basicsr.utils.options import _postprocess_yml_value

        def refuse(reason, entry=entry):
            return InputError(f"--force_yml {entry}: {reason}")

        if entry.count("=") != 1:
            raise refuse("expected key:key=value, such as train:total_iter=1000")
        keys, value = entry.split("=")
        *parents, last = keys = [key.strip() for key in keys.split(":")]
        section = options
        for key in parents:
            section = section.get(key)
            if not isinstance(section, dict):
                raise refuse(f"the option file has no section {key!r} there")
        for key in keys:
            # BasicSR makes a line of Python of them, and runs it.
            if not key or set(key) & set("\"'\\"):
                raise refuse(f"{key!r} is no name of a key")
        try:
            if value.strip().startswith("["):
                # BasicSR evaluates lists as Python, and would run code in them.
                ast.literal_eval(value.strip())
            section[last] = _postprocess_yml_value(value.strip())
        except Exception as error:
            raise refuse(f"the value cannot be read: {error}") from error
    return options
