"""Experiments one after the other under one budget, with the same number of images between checkpoints."""

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from contrast_arch.check import forced, read_options
from contrast_arch.errors import InputError
from contrast_arch.experiments.basicsr_logs import metric_line, training_line, validation_line
from contrast_arch.experiments.groups import flat
from contrast_arch.experiments.records import read_run
from contrast_arch.files import replacing
from contrast_arch.launch import launch
from contrast_arch.options.generate import IMAGES_PER_CHECKPOINT
from contrast_arch.options.schema import micro_batches
from contrast_arch.pipeline import check

# Single batches' losses are noisy: so many of an interval are logged at least, for its mean.
LOSSES_PER_INTERVAL = 50
TOTAL = "train: total_iter"


@dataclass(frozen=True)
class Budget:
    """Budget of each experiment: one of the three."""

    iterations: int | None = None  # of the trainer
    images: int | None = None  # LQ/GT patches seen
    hours: float | None = None  # of training and validation; it ends at the first checkpoint after them


@dataclass(frozen=True)
class Experiment:
    """One training run."""

    options: dict  # what BasicSR gets
    batch: int  # images an iteration, over all GPUs

    @property
    def name(self) -> str:
        return self.options["name"]

    @property
    def total(self) -> int:
        return self.options["train"]["total_iter"]

    @property
    def folder(self) -> Path:
        return Path("experiments", self.name)

    def finished(self) -> bool:
        """True if it was trained to its end and validated."""
        state = self.folder / "training_states" / f"{self.total}.state"
        latest = self.folder / "models" / "net_g_latest.pth"
        # An older one is that of a smaller budget.
        return state.exists() and latest.exists() and latest.stat().st_mtime >= state.stat().st_mtime

    def hours(self) -> float:
        """Hours of training and validation so far, over all starts."""
        return read_run(self.folder).elapsed / 3600

    def write(self, file: Path) -> None:
        """Write the option file, at once or not at all."""
        with replacing(file) as temporary:
            temporary.write_text(yaml.safe_dump(self.options, sort_keys=False))


def run(
    files: list[str],
    budget: Budget,
    images_per_checkpoint: int = IMAGES_PER_CHECKPOINT,
    force_yml: tuple[str, ...] = (),
    gpus: int | None = None,
    output: Path = Path("results/compare"),
    seeds: int | None = None,
) -> None:
    """Train what the option files describe, each in ``experiments/NAME`` of the working directory.

    What was trained by an earlier call with the same options is kept: an experiment goes on from its newest state, a
    finished one is passed over. A larger budget goes on from a smaller one.

    Args:
        files: option files.
        budget: of each.
        images_per_checkpoint: between two checkpoints, and validations.
        force_yml: changes of all option files, ``key:key=value``, as BasicSR takes them.
        gpus: that share each experiment; None takes all that PyTorch sees.
        output: folder for the option files as they were run, and for the output of the processes.
        seeds: how often each is trained, with ``manual_seed`` 0, 1, ..., in ``experiments/NAME_seed0`` and so on; all
            with seed 0 first. None trains each once, as its file says.

    Raises:
        InputError: an option file, the budget or an earlier experiment does not fit (before anything is trained), or a
            run failed.
    """
    gpus = torch.cuda.device_count() if gpus is None else gpus
    if gpus > torch.cuda.device_count():
        raise InputError(f"--gpus {gpus}: PyTorch sees {torch.cuda.device_count()}")
    order = [(file, seed) for seed in ([None] if seeds is None else range(seeds)) for file in files]
    experiments = [plan(file, budget, images_per_checkpoint, force_yml, gpus, seed) for file, seed in order]
    names = [experiment.name for experiment in experiments]
    for (file, _), name in zip(order, names, strict=True):
        if names.count(name) > 1:
            raise InputError(f"{file}: another of the option files has the same name: {name}; each needs its own")
    for experiment in experiments:
        _check_earlier(experiment, output / f"{experiment.name}.yml")
        if not experiment.finished():
            # All that training checks before it starts, for every experiment before the first one starts.
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, f"{experiment.name}.yml")
                experiment.write(file)
                check(file)
    output.mkdir(parents=True, exist_ok=True)
    total = sum(experiment.total * experiment.batch for experiment in experiments)
    with tqdm(total=total, unit="image", unit_scale=True, smoothing=0.05, dynamic_ncols=True) as bar:
        for number, experiment in enumerate(experiments, start=1):
            bar.set_description(f"{number}/{len(experiments)} {experiment.name}")
            _train(experiment, budget, gpus, output, bar)
    print(f"contrast-arch report {' '.join(str(experiment.folder) for experiment in experiments)}")


def plan(
    file: str, budget: Budget, images_per_checkpoint: int, force_yml=(), gpus: int = 0, seed: int | None = None
) -> Experiment:
    """The experiment that an option file describes, under the budget and with a seed, if given.

    Raises:
        InputError: the file cannot be used, or its schedule and the budget do not fit.
    """
    options = forced(read_options(file), force_yml)
    try:
        per_gpu = options["datasets"]["train"]["batch_size_per_gpu"]
        training, logger = options["train"], options["logger"]
        training["total_iter"], logger["print_freq"], options["name"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{file} is no option file for training: it has no {error}") from error
    if not isinstance(per_gpu, int) or per_gpu < 1:
        raise InputError(f"{file}: batch_size_per_gpu: {per_gpu}: expected 1 or more")
    if seed is not None:
        options["manual_seed"] = seed
        options["name"] = f"{options['name']}_seed{seed}"
    batch = per_gpu * max(1, gpus) * micro_batches(options)
    # With `auto`, one process would share its batches out among all GPUs that it sees.
    options["num_gpu"] = gpus
    interval = max(1, round(images_per_checkpoint / batch))
    if budget.hours is None:
        training["total_iter"] = _iterations(budget, batch, interval, images_per_checkpoint)
    _check_schedule(file, training, budget)
    logger["save_checkpoint_freq"] = interval
    logger["print_freq"] = max(1, min(logger["print_freq"], interval // LOSSES_PER_INTERVAL))
    if options.get("val"):
        options["val"]["val_freq"] = interval
    return Experiment(options, batch)


def _iterations(budget, batch, interval, images_per_checkpoint):
    iterations, given = budget.iterations, f"--iterations {budget.iterations}"
    if iterations is None:
        # Rounded as the interval is, so that both end together at a batch that divides neither.
        iterations = round(budget.images / images_per_checkpoint * interval)
        given = f"--images {budget.images} ({iterations} iterations of {batch} images)"
    if iterations < interval or iterations % interval:
        below = iterations // interval * interval
        fitting = f"{below} or {below + interval}" if below else f"{interval}"
        raise InputError(
            f"{given}: expected whole intervals of {interval} iterations ({images_per_checkpoint} images), so that the "
            f"last one has a checkpoint too; give --iterations {fitting}, or another --images-per-checkpoint"
        )
    return iterations


def _check_schedule(file, training, budget):
    """See that the learning rate's schedule ends with the budget."""
    total, scheduler = training["total_iter"], training.get("scheduler", {})
    ends = {f"warmup_iter: {training.get('warmup_iter', -1)}": training.get("warmup_iter", -1)}
    if scheduler.get("milestones"):
        ends[f"milestones: {scheduler['milestones']}"] = max(scheduler["milestones"])
    for key, last in ends.items():
        if last >= total:
            raise InputError(
                f"{file}: {key} reaches beyond the budget of {total} iterations: the rate would never become what the "
                "option file says; change it with --force_yml, or raise the budget"
            )
    periods = scheduler.get("periods")
    if periods and sum(periods) != total:
        raise InputError(
            f"{file}: periods: {periods} are {sum(periods)} iterations, the budget is {total}; make them the same with "
            "--force_yml"
        )
    if budget.hours is not None and (len(ends) > 1 or periods):
        raise InputError(
            f"{file}: its schedule is counted in iterations, and how many --hours {budget.hours} allow is not known; "
            "give --iterations or --images, or a constant rate (milestones: [])"
        )


def _check_earlier(experiment, file):
    """See that a folder that exists already is that of this experiment."""
    folder = experiment.folder
    if not folder.exists():
        return
    if not file.exists():
        raise InputError(
            f"{folder} exists already and {file}, what it would have been run with, does not; move the folder away, or "
            "give the option file another name"
        )
    before, now = dict(flat(yaml.safe_load(file.read_text()))), dict(flat(experiment.options))
    if before[TOTAL] > now[TOTAL]:
        raise InputError(
            f"{folder} has a budget of {before[TOTAL]} iterations already, more than {now[TOTAL]}; give as much or "
            "more, or move the folder away"
        )
    changed = [key for key in {**before, **now} if key != TOTAL and before.get(key) != now.get(key)]
    if changed:
        listed = "; ".join(f"{key}: {before.get(key)}, now {now.get(key)}" for key in changed[:3])
        raise InputError(
            f"{folder} was begun with other options ({listed}); move the folder away, or give the option file another "
            "name"
        )


def _train(experiment, budget, gpus, output, bar):
    start, before = bar.n, experiment.hours()
    if not experiment.finished() and (budget.hours is None or before < budget.hours):
        file = output / f"{experiment.name}.yml"
        experiment.write(file)
        began = datetime.now()
        shown, dataset, saved_late = {}, None, False

        def on_line(line):
            nonlocal dataset, saved_late
            log.write(line)
            log.flush()
            if budget.hours is not None and "Saving models and training states." in line:
                saved_late = before + (datetime.now() - began).total_seconds() / 3600 >= budget.hours
            dataset = validation_line(line) or dataset
            metric, value = metric_line(line) or (None, None)
            if metric == "psnr":
                shown[dataset] = f"{value:.2f} dB"
            training = training_line(line)
            if training:
                shown["loss"] = f"{sum(training.losses.values()):.5f}"
                bar.update(start + training.iteration * experiment.batch - bar.n)
            bar.set_postfix(shown)
            # Only now has the checkpoint been validated too.
            return saved_late and training is not None

        with open(output / f"{experiment.name}.out", "a") as log:
            launch(Path.cwd(), "contrast_arch.train", file, "--auto_resume", on_line=on_line, processes=gpus)
    bar.update(start + experiment.total * experiment.batch - bar.n)
