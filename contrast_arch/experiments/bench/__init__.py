"""The networks side by side on this machine: size, multiply-adds, time, memory.

``contrast-arch bench`` is :func:`run`. The modules below it serve the scripts in ``benchmarks/`` of a checkout too, and
need PyTorch only; what else a call of :func:`run` needs is imported by that call.
"""

from pathlib import Path


def run(networks: list[str] | None, output: Path, **settings) -> dict:
    """Measure networks and write OUTPUT/bench.md and bench.json; the tables also go to stdout.

    Args:
        networks: names as in ``options/train/train_NAME_SRx4_from_scratch.yml``, "HAT" for the upstream one, peers of
            ``contrast_arch.experiments.bench.networks.PEERS``, shipped weights, or paths of option files or of
            .safetensors. None or none at all: those of :func:`contrast_arch.networks.compared`, HAT and the peers
            where spandrel is installed.
        output: a folder, made if need be; earlier results in it are replaced.
        settings: fields of :class:`contrast_arch.experiments.bench.settings.Settings`.

    Returns:
        The content of bench.json.

    Raises:
        InputError: a network, a setting or the folder cannot be used; before anything is measured.
    """
    from contrast_arch.experiments.bench import command

    return command.run(networks, output, **settings)
