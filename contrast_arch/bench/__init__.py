"""The networks side by side on this machine: size, multiply-adds, time, memory.

``contrast-arch bench`` is :func:`run`. The modules below it serve the scripts in ``benchmarks/`` of a checkout too, and
need PyTorch only; what else a call of :func:`run` needs is imported by that call.
"""

from pathlib import Path


def run(networks: list[str] | None, output: Path, **settings) -> dict:
    """Measure networks and write OUTPUT/bench.md, bench.json and bench.png; the table also goes to stdout.

    Args:
        networks: names of ``contrast_arch.bench.networks.COMPARISON``, "HAT" for the upstream one, or paths of option
            files. None or none at all: the six of the comparison, and upstream HAT where spandrel is installed.
        output: a folder, made if need be; earlier results in it are replaced.
        settings: fields of :class:`contrast_arch.bench.settings.Settings`.

    Returns:
        What bench.json holds.

    Raises:
        InputError: a network, a setting or the folder cannot be used; before anything is measured.
        ImportError: matplotlib or tqdm is not installed.
    """
    from contrast_arch.bench import command

    return command.run(networks, output, **settings)
