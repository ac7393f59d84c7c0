"""The text of an option file: what BasicSR reads in it, and in which line each key stands."""

import ast
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import yaml

from contrast_arch.errors import InputError
from contrast_arch.options.messages import BACKSLASH
from contrast_arch.options.problems import Path, Problem, raise_errors
from contrast_arch.parsing import check_aliases

# What PyYAML's full loader, which BasicSR uses, would import or call.
CODE = ("python/object", "python/name", "python/module")


class UnreadableError(InputError):
    """An option file of which nothing can be read; ``problem`` is why, without the name of the file."""

    def __init__(self, message: str, problem: Problem):
        super().__init__(message)
        self.problem = problem


class _CodeError(Exception):
    """A tag that would run code, in a line."""

    def __init__(self, tag, line):
        super().__init__(tag)
        self.line = line


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """BasicSR's loader without its import, and without tags that run code: pairs as they stand, no merge keys."""


def _mapping(loader, node):
    return dict(loader.construct_pairs(node))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node)))


@dataclass(frozen=True)
class Document:
    """An option file.

    Attributes:
        file: its path.
        options: as BasicSR reads them.
        lines: of each key, from 1.
        problems: keys that stand twice.
    """

    file: str
    options: dict
    lines: dict[Path, int]
    problems: list[Problem]

    def line(self, path: Path) -> int:
        """The line of a key, of its section where it is not there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_document(file: str) -> Document:
    """An option file with its lines.

    Raises:
        UnreadableError: no such file, not YAML, or not a mapping.
    """
    try:
        with open(file) as opened:
            text = opened.read()
    except OSError as error:
        raise UnreadableError(f"-opt {file}: {error.strerror}", Problem(error.strerror)) from error
    except UnicodeDecodeError as error:
        raise _unreadable(file, str(error)) from error
    lines, problems = {}, []
    try:
        root = yaml.compose(text, _Loader)
        for path, line, earlier in _keys(root, (), set()):
            if earlier is not None:
                problems.append(Problem(f"{path[-1]!r} stands already in line {earlier}; keep one", line=line))
            lines[path] = line
        check_aliases(root)
        options = yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader)
    except _CodeError as error:
        raise _unreadable(file, f"{error} would run code; write the value itself", error.line) from error
    except Exception as error:  # PyYAML's own, and whatever Python's conversions of a value raise
        line = _line(error)
        raise _unreadable(file, f"{_reason(error)}{_of_tab(text, line)}", line) from error
    if not isinstance(options, dict):
        message = "holds no options: expected 'key: value' lines"
        raise UnreadableError(f"{file} {message}", Problem(message))
    return Document(file, options, lines, problems)


def _unreadable(file, reason, line=None):
    place = "" if line is None else f"line {line}: "
    problem = Problem(f"not readable as YAML: {reason}", line=line)
    return UnreadableError(f"{file} is not readable as YAML: {place}{reason}", problem)


def _reason(error):
    if isinstance(error, yaml.MarkedYAMLError):
        if "tag:yaml.org,2002:merge" in str(error):
            return "BasicSR's reader takes no merge keys (<<: *name); write the keys out"
        reason = ", ".join(filter(None, (error.context, error.problem)))
        # Its messages about escapes in double quotes.
        return f"{reason}; {BACKSLASH}" if "escape" in reason or "hexdecimal" in reason else reason
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or in itself"
    text = " ".join(str(error).split())
    return text if isinstance(error, yaml.YAMLError) else f"a value does not fit its tag: {text}"


def _of_tab(text, line):
    """End of a message about a line that is indented with a tab, which PyYAML's own often does not name."""
    indented = "" if line is None else "".join(text.splitlines()[line - 1 : line])
    if "\t" not in indented[: len(indented) - len(indented.lstrip())]:
        return ""
    return "; the line is indented with a tab, and YAML takes spaces only: replace the tab by spaces"


def _line(error):
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return None if mark is None else mark.line + 1


def _keys(node, path, seen_nodes) -> Iterator[tuple[Path, int, int | None]]:
    """Path, line and, for a key that stands twice in its section, the earlier line, for every key under a node."""
    # What an alias stands for has been looked at where its anchor is.
    if node is None or id(node) in seen_nodes:
        return
    seen_nodes.add(id(node))
    line = node.start_mark.line + 1
    if any(code in node.tag for code in CODE):
        raise _CodeError(node.tag.rpartition("2002:")[2], line)
    if isinstance(node, yaml.MappingNode):
        seen = {}
        for key, value in node.value:
            yield from _keys(key, (), seen_nodes)
            name = key.value if isinstance(key.value, str) else str(key.start_mark)
            line = key.start_mark.line + 1
            yield (*path, name), line, seen.get(name)
            seen[name] = line
            yield from _keys(value, (*path, name), seen_nodes)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _keys(value, (*path, f"[{number}]"), seen_nodes)


def read_options(path: str) -> dict:
    """An option file as BasicSR reads it.

    Raises:
        InputError: no such file, not YAML, not a mapping, or keys that stand twice (BasicSR would silently take the
            last).
    """
    document = read_document(path)
    raise_errors(document.problems, path)
    return document.options


def _check_force_yml(entry, options):
    if entry.count("=") != 1:
        raise InputError(f"--force_yml {entry}: expected key:key=value, such as train:total_iter=1000")
    at = options
    *parents, last = (key.strip() for key in entry.split("=")[0].split(":"))
    for key in parents:
        if not isinstance(at, dict) or not isinstance(at.get(key), dict):
            raise InputError(f"--force_yml {entry}: the option file has no section {key!r} there")
        at = at[key]
    # BasicSR makes a line of Python of them, and runs it.
    wrong = next((key for key in (*parents, last) if not key or set(key) & set("\"'\\")), None)
    if wrong is not None:
        raise InputError(f"--force_yml {entry}: {wrong!r} is no name of a key")


def forced(options: dict, entries) -> dict:
    """Options with the changes of ``--force_yml``, read as BasicSR reads them.

    Raises:
        InputError: an entry that is not ``key:key=value``, or a section that is not there.
    """
    options = deepcopy(options)
    for entry in entries:
        # Importing BasicSR takes seconds.
        from basicsr.utils.options import _postprocess_yml_value

        _check_force_yml(entry, options)
        keys, value = entry.split("=")
        *parents, last = (key.strip() for key in keys.split(":"))
        section = options
        for key in parents:
            section = section[key]
        try:
            if value.strip().startswith("["):
                # BasicSR evaluates lists as Python, and would run what stands in them.
                ast.literal_eval(value.strip())
            section[last] = _postprocess_yml_value(value.strip())
        except Exception as error:
            raise InputError(f"--force_yml {entry}: the value cannot be read: {error}") from error
    return options
