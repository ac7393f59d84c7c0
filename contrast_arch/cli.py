"""The command line: it only parses and calls."""

import argparse
import shutil
import sys
from pathlib import Path

from contrast_arch import compat
from contrast_arch.errors import InputError, exit_code
from contrast_arch.files import option_files
from contrast_arch.version import __version__


def _demo(args) -> None:
    compat.require_basicsr()
    if args.iterations < 10:
        raise InputError(f"--iterations {args.iterations}: expected at least 10, the interval of the log")
    try:
        from contrast_arch import demo
    except ImportError as error:
        needed = "pip install scikit-image matplotlib tqdm"
        raise InputError(f"the demo needs {error.name}, which is not installed: {needed}") from error
    demo.run(Path(args.folder), args.iterations)


def _options(args) -> None:
    target = Path(args.folder)
    if target.exists():
        raise InputError(f"{target} exists already; name a new folder with --folder")
    shutil.copytree(option_files(), target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    print(f"option files copied to {target}")


def main(argv: list[str] | None = None) -> int:
    """Run ``contrast-arch``.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        0, or 1 where something the user gave cannot be used.
    """
    parser = argparse.ArgumentParser(prog="contrast-arch", description="Contrast networks for BasicSR.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train and compare Contrast and HAT-light, small, on the CPU")
    demo.add_argument("--folder", default="results/demo", help="where everything is written (default: %(default)s)")
    demo.add_argument("--iterations", type=int, default=500, help="of each network (default: %(default)s)")
    demo.set_defaults(call=_demo)
    options = commands.add_parser("options", help="copy the option files that come with the package")
    options.add_argument("--folder", default="options", help="a new folder for them (default: %(default)s)")
    options.set_defaults(call=_options)
    args = parser.parse_args(argv)
    return exit_code(args.call, args)


if __name__ == "__main__":
    sys.exit(main())
