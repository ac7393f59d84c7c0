"""The text of an option file: what BasicSR reads in it, and in which line each key stands."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import yaml

from contrast_arch.errors import InputError
from contrast_arch.preflight.problems import Path, Problem, raise_errors

# What PyYAML's full loader, which BasicSR uses, would import or call.
CODE = ("python/object", "python/name", "python/module")


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
        InputError: no such file, not YAML, or not a mapping.
    """
    from basicsr.utils.options import ordered_yaml

    loader = ordered_yaml()[0]
    try:
        with open(file) as opened:
            text = opened.read()
    except OSError as error:
        raise InputError(f"-opt {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not readable as YAML: {error}") from error
    lines, problems = {}, []
    try:
        root = yaml.compose(text, loader)
        for path, line, earlier in _keys(root, (), ()):
            if earlier is not None:
                problems.append(Problem(f"{path[-1]!r} stands already in line {earlier}; keep one", line=line))
            lines[path] = line
        options = yaml.load(text, Loader=loader)
    except InputError as error:
        raise InputError(f"{file}{error}") from error
    except Exception as error:  # PyYAML's own, and whatever Python's conversions of a value raise
        raise InputError(f"{file} is not readable as YAML: {_reason(error)}") from error
    if not isinstance(options, dict):
        raise InputError(f"{file} holds no options: expected 'key: value' lines")
    return Document(file, options, lines, problems)


def _reason(error):
    text = str(error)
    if "tag:yaml.org,2002:merge" in text:
        line = error.problem_mark.line + 1
        return f"line {line}: BasicSR's reader takes no merge keys (<<: *name); write the keys out"
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or in itself"
    return text if isinstance(error, yaml.YAMLError) else f"a value does not fit its tag: {text}"


def _keys(node, path, parents) -> Iterator[tuple[Path, int, int | None]]:
    """Path, line and, for a key that stands twice in its section, the earlier line, for every key under a node."""
    if node is None or node in parents:  # an alias to a section around it, which loading refuses
        return
    line = node.start_mark.line + 1
    if any(code in node.tag for code in CODE):
        raise InputError(f", line {line}: {node.tag.rpartition(':')[2]} would run code; write the value itself")
    if isinstance(node, yaml.MappingNode):
        seen = {}
        for key, value in node.value:
            yield from _keys(key, (), (*parents, node))
            name = key.value if isinstance(key.value, str) else str(key.start_mark)
            line = key.start_mark.line + 1
            yield (*path, name), line, seen.get(name)
            seen[name] = line
            yield from _keys(value, (*path, name), (*parents, node))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _keys(value, (*path, f"[{number}]"), (*parents, node))


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
    if not last or set(last) & set("\"'\\"):
        raise InputError(f"--force_yml {entry}: {last!r} is no name of a key")


def forced(options: dict, entries) -> dict:
    """Options with the changes of ``--force_yml``, read as BasicSR reads them.

    Raises:
        InputError: an entry that is not ``key:key=value``, or a section that is not there.
    """
    from basicsr.utils.options import _postprocess_yml_value

    options = deepcopy(options)
    for entry in entries:
        _check_force_yml(entry, options)
        keys, value = entry.split("=")
        *parents, last = (key.strip() for key in keys.split(":"))
        section = options
        for key in parents:
            section = section[key]
        try:
            section[last] = _postprocess_yml_value(value.strip())
        except Exception as error:  # BasicSR evaluates lists as Python
            raise InputError(f"--force_yml {entry}: the value cannot be read: {error}") from error
    return options
