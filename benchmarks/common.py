"""The command line that the scripts beside this file share."""

import argparse
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def parser_of(doc: str, name: str) -> argparse.ArgumentParser:
    """Make the parser of a script, with the place of its results.

    Args:
        doc: its docstring.
        name: of the result files.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--name", default=name, help="of the result files")
    return parser
