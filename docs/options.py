"""Write the tables of keys into options.md.

python docs/options.py
"""

import json
from pathlib import Path

from contrast_arch.bench.results import table
from contrast_arch.options.messages import ANYTHING, SECTION, allowed, json_schema, section_schema
from contrast_arch.options.schema import ALWAYS, SET_BY_BASICSR, TESTING, OptionFile

PAGE = Path(__file__).with_name("options.md")
HEADER = ["key", "meaning", "allowed", "unit", "default", "read by"]
BEGIN, END = "<!-- docs/options.py -->\n", "<!-- end -->"


def page(text: str) -> str:
    """Fill the page with the keys as :class:`~contrast_arch.options.schema.OptionFile` has them."""
    lines = []
    for title, keys in _sections(json_schema(OptionFile), ()).items():
        keys = {name: key for name, key in keys.items() if key["description"] != SET_BY_BASICSR}
        lines += [f"### {title or 'On top'}", "", *table(HEADER, [_row(*item) for item in keys.items()]), ""]
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n".join(lines) + END + rest.partition(END)[2]


def _sections(schema, path):
    """Keys of a section and of those below it, by path; those that are alike, as those of both losses, together."""
    found = {": ".join(path): schema.get("properties", {})}
    below = list(schema.get("properties", {}).items())
    below += [("NAME", kind) for kind in (schema.get("additionalProperties"),) if isinstance(kind, dict)]
    for name, kind in below:
        section = section_schema(OptionFile, kind)
        if "properties" not in section and not isinstance(section.get("additionalProperties"), dict):
            continue
        for title, keys in _sections(section, (*path, name)).items():
            same = next((other for other, known in found.items() if keys.items() <= known.items()), None)
            if same is None:
                found[title] = keys
            elif title == ": ".join((*path, name)):
                found = {f"{other}, {name}" if other == same else other: known for other, known in found.items()}
    return {title: keys for title, keys in found.items() if keys}


def _row(name, key):
    words = allowed(key)
    values = "" if words in (ANYTHING, SECTION) else words
    return [f"`{name}`", key["description"], values, key.get("unit", ""), _default(key), key.get("of", "BasicSR")]


def _default(key):
    """A default as an option file has it; empty where there is none."""
    if "needed" in key:
        return {ALWAYS: "needed", TESTING: "needed in a test"}.get(tuple(key["needed"]), "needed for training")
    return "" if key.get("default") is None else f"`{json.dumps(key['default'])}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
