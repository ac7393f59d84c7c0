"""JSON and YAML of files that anybody may have written: read without running code, and bounded."""

import json
import math
from typing import Any

# An option file has a few hundred values.
MOST_VALUES = 100_000


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; a ValueError where it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_yaml(text: str) -> Any:
    """Parse YAML with PyYAML's safe loader; a YAMLError also of :func:`check_aliases`, a RecursionError if too deep."""
    import yaml

    check_aliases(yaml.compose(text, yaml.SafeLoader))
    return yaml.safe_load(text)


def check_aliases(root) -> None:
    """Raise a YAMLError where aliases (``*name``) make the document of a root node, or of None, huge or endless."""
    import yaml

    if root is not None and _values(root, {}) > MOST_VALUES:
        text = f"with its aliases (*name) written out it has over {MOST_VALUES:,} values; write fewer"
        raise yaml.MarkedYAMLError(problem=text, problem_mark=root.start_mark)


def _values(node, counted):
    """Number of values that a node stands for."""
    if id(node) not in counted:
        counted[id(node)] = math.inf  # what holds itself has no end
        entries = node.value if isinstance(node.value, list) else ()
        children = (child for entry in entries for child in (entry if isinstance(entry, tuple) else (entry,)))
        counted[id(node)] = 1 + sum(_values(child, counted) for child in children)
    return counted[id(node)]
