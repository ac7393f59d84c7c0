"""Experiments one after the other under one budget, with the same number of images between checkpoints."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from tqdm import tqdm

from contrast_arch.check import forced, read_options
from contrast_arch.errors import InputError
from contrast_arch.experiments.basicsr_logs import training_line
from contrast_arch.experiments.tables import flat
from contrast_arch.files import replacing
from contrast_arch.launch import launch
from contrast_arch.options.generate import IMAGES_PER_CHECKPOINT
from contrast_arch.options.validation import micro_batches
from contrast_arch.pipeline import check

# Single batches' losses are noisy: so many of an interval are logged at least, for its mean.
LOSSES_PER_INTERVAL = 50
TOTAL = "train: total_iter"


class Experiment(NamedTuple):
    """One training run."""

    folder: Path  # experiments/NAME
    options: dict  # what BasicSR gets
    total: int  # iterations
    images: int  # of all iterations, over all GPUs

    def finished(self) -> bool:
        """True if it was trained to its end and validated."""
        state = self.folder / "training_states" / f"{self.total}.state"
        latest = self.folder / "models" / "net_g_latest.pth"
        # An older one is that of a smaller budget.
        return state.exists() and latest.exists() and latest.stat().st_mtime >= state.stat().st_mtime

    def write(self, folder: Path | str) -> Path:
        """Write the option file FOLDER/NAME.yml, at once or not at all."""
        file = Path(folder, f"{self.folder.name}.yml")
        with replacing(file) as temporary:
            temporary.write_text(yaml.safe_dump(self.options, sort_keys=False))
        return file


def run(
    files: list[str],
    images: int,
    images_per_checkpoint: int = IMAGES_PER_CHECKPOINT,
    force_yml: tuple[str, ...] = (),
    gpus: int | None = None,
    output: Path = Path("results/compare"),
    seeds: int | None = None,
) -> None:
    """Train the experiments of option files, each in ``experiments/NAME`` of the working directory.

    An experiment that an earlier call began with the same options goes on from its newest state, also to a larger
    budget; a finished one is passed over.

    Args:
        images: LQ/GT patches that each experiment sees, whole intervals of ``images_per_checkpoint``, after each of
            which it is saved and validated.
        gpus: that share each experiment; None takes all that PyTorch sees.
        output: folder for the option files as they were run, and for the output of the processes.
        seeds: how often each is trained, with ``manual_seed`` 0, 1, ..., in ``experiments/NAME_seed0`` and so on; all
            with seed 0 first. None trains each once, as its file says.

    Raises:
        InputError: an option file, the budget or an earlier experiment does not fit; before anything is trained.
    """
    gpus, experiments = torch.cuda.device_count() if gpus is None else gpus, {}
    for seed in [None] if seeds is None else range(seeds):
        for file in files:
            experiment = plan(file, images, images_per_checkpoint, force_yml, gpus, seed)
            if experiment.folder in experiments:
                raise InputError(f"{file}: {experiment.folder} is that of another option file; give each its own name")
            experiments[experiment.folder] = experiment
    todo = {}
    for folder, experiment in experiments.items():
        _check_earlier(experiment, output / f"{folder.name}.yml")
        if not experiment.finished():
            todo[folder] = experiment
            # The checks of contrast-train, for every experiment before the first one starts.
            with tempfile.TemporaryDirectory() as temporary:
                check(experiment.write(temporary))
    output.mkdir(parents=True, exist_ok=True)
    total = sum(experiment.images for experiment in todo.values())
    with tqdm(total=total, unit="image", unit_scale=True, smoothing=0.05, dynamic_ncols=True) as bar:
        for number, experiment in enumerate(todo.values(), start=1):
            bar.set_description(f"{number}/{len(todo)} {experiment.folder.name}")
            _train(experiment, gpus, output, bar)
    print(f"contrast-arch report {' '.join(map(str, experiments))}")


def plan(
    file: str, images: int, images_per_checkpoint: int, force_yml=(), gpus: int = 0, seed: int | None = None
) -> Experiment:
    """Make the experiment of an option file; InputError if the file or the budget of :func:`run` does not fit."""
    options = forced(read_options(file), force_yml)
    try:
        per_gpu = options["datasets"]["train"]["batch_size_per_gpu"]
        training, logger, name = options["train"], options["logger"], options["name"]
        training["total_iter"], logger["print_freq"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{file} is no option file for training: it has no {error}") from error
    if not isinstance(per_gpu, int) or per_gpu < 1:
        raise InputError(f"{file}: batch_size_per_gpu: {per_gpu}: expected 1 or more")
    if images % images_per_checkpoint:
        raise InputError(
            f"--images {images}: expected a multiple of --images-per-checkpoint ({images_per_checkpoint}), so that the "
            "last weights are validated too"
        )
    if seed is not None:
        name = f"{name}_seed{seed}"
        options |= {"manual_seed": seed, "name": name}
    batch = per_gpu * max(1, gpus) * micro_batches(options)
    # With `auto`, one process would share its batches out among all GPUs that it sees.
    options["num_gpu"] = gpus
    interval = max(1, round(images_per_checkpoint / batch))
    training["total_iter"] = total = images // images_per_checkpoint * interval
    logger["save_checkpoint_freq"] = interval
    logger["print_freq"] = max(1, min(logger["print_freq"], interval // LOSSES_PER_INTERVAL))
    if options.get("val"):
        options["val"]["val_freq"] = interval
    return Experiment(Path("experiments", name), options, total, total * batch)


def _check_earlier(experiment, file):
    """Refuse a folder that another experiment has written."""
    folder, other = experiment.folder, "move the folder away, or give the option file another name"
    if not folder.exists():
        return
    if not file.exists():
        raise InputError(f"{folder} exists already, and {file}, the options that it was begun with, does not; {other}")
    before, now = dict(flat(yaml.safe_load(file.read_text()))), dict(flat(experiment.options))
    changed = [key for key in before | now if before.get(key) != now.get(key)]
    # A larger budget goes on from a smaller one.
    changed = [key for key in changed if key != TOTAL or before[TOTAL] > now[TOTAL]]
    if changed:
        listed = "; ".join(f"{key}: {before.get(key)}, now {now.get(key)}" for key in changed[:3])
        raise InputError(f"{folder} was begun with other options ({listed}); {other}")


def _train(experiment, gpus, output, bar):
    file, start = experiment.write(output), bar.n

    def on_line(line):
        log.write(line)
        log.flush()
        if training := training_line(line):
            bar.set_postfix(loss=f"{sum(training['values'].values()):.5f}")
            bar.update(start + training["iteration"] * experiment.images // experiment.total - bar.n)

    with file.with_suffix(".out").open("a") as log:
        launch(Path.cwd(), "contrast_arch.train", file, "--auto_resume", on_line=on_line, processes=gpus)
    # A run that a signal stops saves and ends without an error.
    if not experiment.finished():
        raise InputError(f"{experiment.folder} was stopped before its end; the same command goes on from there")
    bar.update(start + experiment.images - bar.n)
