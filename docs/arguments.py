"""Write the tables of the networks' arguments into networks.md.

python docs/arguments.py
"""

import inspect
import json
from pathlib import Path

from contrast_arch.archs.config import ARGUMENTS, DEFAULTS
from contrast_arch.experiments.markdown import fill, table
from contrast_arch.registration import networks

PAGE = Path(__file__).with_name("networks.md")


def page(text: str) -> str:
    """Fill the page with the arguments as :class:`~contrast_arch.archs.config.Config` has them."""
    rows = [
        [f"`{name}`", argument.metadata["help"], argument.metadata["kind"].allowed, _cell(argument.default)]
        for name, argument in ARGUMENTS.items()
    ]
    lines = [*table(["argument", "meaning", "allowed", "default"], rows), "", "Networks with other defaults:", ""]
    lines += table(["network", "defaults"], [[f"`{name}`", own] for name, own in _own_defaults().items()])
    return fill(text, "docs/arguments.py", lines)


def _cell(value):
    """A default as an option file has it; empty where it follows from another argument."""
    return "" if value is None else f"`{json.dumps(value)}`"


def _own_defaults():
    found = {}
    for name, network in networks().items():
        defaults = {key: parameter.default for key, parameter in inspect.signature(network).parameters.items()}
        own = [f"`{key}: {json.dumps(value)}`" for key, value in defaults.items() if value != DEFAULTS[key]]
        if own:
            found[name] = ", ".join(own)
    return found


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
