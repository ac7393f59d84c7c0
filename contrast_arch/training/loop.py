"""The training loop of contrast-train, and the tests of contrast-test, for any model of BasicSR."""

import contextlib
import datetime
import logging
import random
import time
from dataclasses import replace
from pathlib import Path

import torch
from basicsr import train as basicsr_train
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.utils import get_env_info, get_root_logger, get_time_str, make_exp_dirs, mkdir_and_rename, set_random_seed
from basicsr.utils.options import dict2str
from tqdm.contrib.logging import logging_redirect_tqdm

from contrast_arch import compat
from contrast_arch.errors import TrainingStopped
from contrast_arch.memory import peak_memory
from contrast_arch.models import checkpoints
from contrast_arch.models.contrast_model import TRAINER
from contrast_arch.models.resuming import best_results, data_of, fit
from contrast_arch.options.schema import settings_of
from contrast_arch.training import signals, state
from contrast_arch.training.data import TrainingBatches, images_of_an_iteration, with_accumulation
from contrast_arch.training.distributed import all_reduce_max, broadcast_object, gather_objects, processes_on_cpus
from contrast_arch.training.progress import Progress
from contrast_arch.training.randomness import random_states, set_random_states
from contrast_arch.training.record import LenientWriter, ProblemHandler, Record
from contrast_arch.training.saving import Saver
from contrast_arch.training.validation import validate
from contrast_arch.training.watchdog import Watchdog
from contrast_arch.version import __version__


class Trainer:
    """A training run: made, it is ready for its first iteration.

    Args:
        opt: options as BasicSR's parser gives them; ``manual_seed`` only where the file has one.
        option_file: name and text of the experiment's copy of the option file.
        override_state: resume with the option file's values in place of the state's.
        bar: show progress bars.

    Raises:
        InputError: it cannot be resumed, or has too few images.
    """

    def __init__(self, opt: dict, option_file: tuple[str, str], override_state: bool = False, bar: bool = False):
        self.opt, self.settings, self.first = opt, settings_of(opt), opt["rank"] == 0
        self.bar = bar and self.first
        self.digest = state.options_digest(opt)
        self.total = int(opt["train"]["total_iter"])
        torch.backends.cudnn.benchmark = True
        resumed = self._find_state()
        self._set_seed(resumed)
        self.batched = with_accumulation(opt)
        try:
            self._open_experiment(resumed is not None, *option_file)
        except OSError as error:
            path = error.filename or opt["path"]["experiments_root"]
            raise TrainingStopped(
                f"{path} cannot be written ({error.strerror}); mend the disk, or make room"
            ) from error
        self.requests, self.limit = signals.Requests(), signals.TimeLimit(self.settings.train.max_hours)
        self.named_problems, self.validated_at = set(), -1
        new = {"data": data_of(opt), "versions": state.versions(), "options_digest": self.digest}
        new["seed"] = opt["manual_seed"]
        self.now = state.TrainState(0, 0, {}) if resumed is None else replace(resumed)
        self.now.images = self.now.images or self.now.iter * images_of_an_iteration(self.batched)
        self._build()
        if resumed is not None:
            self._resume(resumed, override_state)
        self.now = replace(self.now, **new)
        self.progress = Progress(self.batched, self.now, self.record, self.tb_logger, self.bar)
        self._record_run(resumed is not None)

    @property
    def iteration(self) -> int:
        """The last iteration that was trained."""
        return self.now.iter

    def _find_state(self):
        """Find the state to go on from: all processes take the one that the first process finds whole."""
        found = state.find_state(self.opt) if self.first else None
        path, self.passed_over = broadcast_object(found and (found[0], found[2]))
        if path is None:
            return None
        resumed = found[1] if found else state.read_state(path, self.opt)
        state.take_up(self.opt, path, resumed)
        return resumed

    def _set_seed(self, resumed):
        """Without ``manual_seed``, draw a seed at the first start and keep it; all processes have the same."""
        opt, seed = self.opt, resumed and resumed.seed
        if opt.get("manual_seed") is None:
            opt["manual_seed"] = broadcast_object(random.randint(1, 10_000)) if seed is None else seed
            set_random_seed(opt["manual_seed"] + opt["rank"])

    def _open_experiment(self, resumed, name, text):
        opt = self.opt
        events = Path(opt["root_path"], "tb_logger", opt["name"])
        has_events = opt["logger"].get("use_tb_logger") and "debug" not in opt["name"]
        if resumed:
            # It may be the state of a run of another name.
            for folder in ("models", "training_states", "visualization"):
                Path(opt["path"][folder]).mkdir(parents=True, exist_ok=True)
        else:
            make_exp_dirs(opt)
            if has_events and self.first:
                mkdir_and_rename(str(events))
        root = Path(opt["path"]["experiments_root"])
        if self.first:
            checkpoints.remove_unfinished(opt)
            (root / name).write_text(text)
        self.log = open_log(opt, f"train_{opt['name']}")
        for line in self.passed_over:
            self.log.warning(f"Passed over: {line}")
        minutes = self.settings.train.watchdog_minutes
        if minutes is None:
            minutes = 30 if opt["world_size"] > 1 else 0
        # BasicSR gives a file to the log of the first process only.
        file = next((handler.baseFilename for handler in self.log.handlers if hasattr(handler, "baseFilename")), None)
        self.watchdog = Watchdog(minutes, broadcast_object(file), opt["rank"])
        self.record = Record(root / "metrics.jsonl" if self.first else None)
        self.handler = ProblemHandler(self.record)
        self.log.addHandler(self.handler)
        writer = basicsr_train.init_tb_loggers(opt)
        self.tb_logger = writer and LenientWriter(writer)

    def _build(self):
        """Build datasets, loaders and model, in the order of BasicSR's trainer."""
        # BasicSR's loaders: the datasets are what is taken of them, and what the log says of them.
        loader, _, self.loaders, *_ = basicsr_train.create_train_val_dataloader(self.batched, self.log)
        self.batches = TrainingBatches(loader.dataset, self.batched, self.now)
        self.opt[TRAINER] = "contrast-train"
        with processes_on_cpus():
            self.model = build_model(self.opt)
        self.saver = Saver(self.model, self.opt, self.record)

    def _resume(self, resumed, override_state):
        content = resumed.for_model()
        for message in fit(self.model, content, override_state):
            self.log.warning(message)
        self.model.resume_training(content)
        self.model.best_metric_results = best_results(self.opt, content)
        if self.opt["rank"] < len(resumed.random_states):
            set_random_states(resumed.random_states[self.opt["rank"]])
        if resumed.options_digest not in ("", self.digest):
            self.log.info("The options differ from those with which this state was saved.")
        self.saver.goes_on_from(resumed)
        if not resumed.validation_due:
            self.validated_at = resumed.iter
        self.log.info(f"Resuming training from epoch: {resumed.epoch}, iter: {resumed.iter}.")

    def _record_run(self, resumed):
        opt, model = self.opt, self.model
        self.record.iteration = self.iteration
        self.record.write(
            "run",
            name=opt["name"],
            model=opt["model_type"],
            network=opt["network_g"]["type"],
            **state.versions(),
            device=torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
            processes=opt["world_size"],
            batch=images_of_an_iteration(self.batched),
            total_iter=self.total,
            resumed=resumed,
            options_digest=self.digest,
        )
        self.log.info(f"Start training from epoch: {self.now.epoch}, iter: {self.iteration}")

    def run(self) -> None:
        """Train to the last iteration, or until a signal or the time limit ends the run.

        Raises:
            TrainingStopped: it cannot go on.
        """
        if self.settings.train.handle_signals:
            self.requests.listen()
        begun = time.monotonic()
        self.watchdog.start()
        try:
            if self._validation_due():
                self.log.info(f"Validation of iteration {self.iteration}, which an earlier run did not get to.")
                self._validate()
            if all(self._iterate(batch) for batch in self.batches):
                consumed = datetime.timedelta(seconds=int(time.monotonic() - begun))
                self.log.info(f"End of training. Time consumed: {consumed}")
                self._finish()
        finally:
            self.watchdog.stop()
            self.requests.ignore()
            self.log.removeHandler(self.handler)
            self.record.close()
            self.progress.bar.close()
            if self.tb_logger:
                self.tb_logger.close()

    def _iterate(self, batch) -> bool:
        """Train an iteration; False if the run ends before it."""
        self.progress.data_is_there()
        epoch, problems = int(batch.pop("epoch")[0]), list(filter(None, batch.pop("problem")))
        positions = batch.pop("position")
        if self._asked_to_end(self._new_problem(problems)):
            return False
        if int(positions[0]) == self.opt["rank"]:
            # BasicSR's loader draws a number for each epoch, and its prefetcher one more at the start.
            torch.empty(2 if self.iteration == 0 else 1, dtype=torch.int64).random_()
        iteration = self.iteration + 1
        self.model.update_learning_rate(iteration, warmup_iter=self.opt["train"].get("warmup_iter", -1))
        self.model.feed_data(batch)
        self.model.optimize_parameters(iteration)
        self.now.iter, self.now.epoch = iteration, epoch
        self.now.position = int(positions[0]) - self.opt["rank"] + self.batches.sampler.batch
        self.now.images += self.batches.sampler.batch
        self.progress.iteration_is_done(self.model)
        self.watchdog.progress()
        if iteration % self.opt["logger"]["save_checkpoint_freq"] == 0:
            self.log.info("Saving models and training states.")
            self._save()
        if self._validation_due():
            self._validate()
        return True

    def _new_problem(self, problems):
        """Return the first unreadable image where that ends the run; where it does not, name it in the log."""
        if problems and not self.settings.data.skip_unreadable:
            return problems[0]
        for problem in dict.fromkeys(problems):
            if problem not in self.named_problems:
                self.named_problems.add(problem)
                # BasicSR keeps the warnings of all processes but the first one to itself.
                tell = self.log.warning if self.first else self.log.error
                tell(f"{problem}; the image after it was taken instead")
        return None

    def _wanted(self, problem=None):
        """Return what one of the processes wants between two iterations, or two images of a validation."""
        # A start trains at least one iteration: a requeued job must come to an end.
        needed = self.progress.longest() + self.saver.seconds
        if self.iteration > self.progress.first and self.limit.is_near(needed):
            return all_reduce_max(signals.TIME_IS_UP)
        return all_reduce_max(signals.STOP if problem else self.requests.wanted)

    def _asked_to_end(self, problem):
        """Do what signals, the time limit or an unreadable image ask for; True if the run is to end."""
        wanted = self._wanted(problem)
        if wanted == signals.NOTHING:
            return False
        self._save_if_new()
        if wanted == signals.SAVE:
            return False
        done = self.iteration
        if self.saver.saved_at != done:
            raise TrainingStopped(f"iteration {done} could not be saved; {checkpoints.last_good(self.opt)}")
        if problem:
            raise TrainingStopped(
                f"{problem}\nMend the file, leave it out, or give datasets: train: skip_unreadable: true. Saved after "
                f"iteration {done}; --auto_resume goes on from there"
            )
        time_is_up = wanted == signals.TIME_IS_UP
        why = "The time limit is near: stopped" if time_is_up else "Stopped as asked to,"
        self.log.info(f"{why} after iteration {done}; --auto_resume goes on from there.")
        if time_is_up and self.first and self.settings.train.requeue:
            self.log.info(signals.requeue())
        return True

    def _save_if_new(self):
        if self.saver.saved_at != self.iteration:
            self._save()
        self.requests.done()

    def _broken_off(self):
        """Asked before the images of a validation."""
        self.watchdog.progress()
        wanted = self._wanted()
        if wanted == signals.SAVE:
            self._save_if_new()
        return wanted >= signals.STOP

    def _validation_due(self):
        """True if the weights of this iteration are still to be validated, at ``val_freq``."""
        val, now = self.opt.get("val"), self.iteration
        return bool(val and self.loaders) and now > 0 and now % val["val_freq"] == 0 and self.validated_at != now

    def _validate(self):
        broken_off = self._broken_off
        with self.progress.validating():
            for loader in self.loaders:
                name = loader.dataset.opt["name"]
                bar = self.bar or (self.first and bool(self.opt["val"].get("pbar")))
                found = validate(self.model, loader, self.iteration, self.tb_logger, broken_off, bar)
                if found is None:
                    self.log.info(f"Validation of {name} was broken off; a resumed run begins with it.")
                    return
                best = getattr(self.model, "best_metric_results", {}).get(name, {})
                best = {key: {"value": one["val"], "iteration": one["iter"]} for key, one in best.items()}
                values = {"values": found.values, "best": best, "values_per_image": found.per_image}
                self.record.write("validation", images=self.now.images, set=name, **values)
        self.validated_at = self.iteration
        self.watchdog.progress()
        if self.saver.saved_at == self.iteration:
            # With the metrics that it did not have yet.
            self._save(only_state=True)

    def _save(self, **how):
        # The validation of the last iteration comes after its last save.
        due = self._validation_due() or (self.iteration == self.total and self.validated_at != self.iteration)
        self.now.model, self.now.validation_due = checkpoints.model_state(self.model), due
        self.now.random_states = gather_objects(random_states()) or []
        self.saver.save(self.now, self.log, **how)
        self.watchdog.progress()

    def _finish(self):
        """Save the last weights, and validate them unless that was done already."""
        self.log.info("Save the latest model.")
        self._save(final=True)
        if self.opt.get("val") and self.validated_at != self.iteration:
            self._validate()


def train(opt: dict, option_file: tuple[str, str], override_state: bool = False, bar: bool = False) -> None:
    """Train a model of BasicSR; see :class:`Trainer`."""
    trainer = Trainer(opt, option_file, override_state, bar)
    with logging_redirect_tqdm([trainer.log]) if trainer.bar else contextlib.nullcontext():
        trainer.run()
    peak = peak_memory()
    if peak:
        trainer.log.info(f"Peak memory: {peak[0] >> 20} MiB ({peak[1]})")


def open_log(opt: dict, name: str):
    """Open the log of a run, with BasicSR's file, and say what runs where."""
    # A log file on a full or broken disk is no reason for tracebacks.
    logging.raiseExceptions = False
    log = get_root_logger(log_file=str(Path(opt["path"]["log"], f"{name}_{get_time_str()}.log")))
    log.info(f"{get_env_info()}\n\tcontrast_arch: {__version__}, run by BasicSR {compat.basicsr_in_use()}")
    log.info(dict2str(opt))
    return log


def test(opt: dict) -> None:
    """Test a model of BasicSR on every dataset of an option file, shared out among the processes.

    Args:
        opt: options as BasicSR's parser gives them.

    Raises:
        TrainingStopped: an image cannot be read, or a result is NaN or infinite.
    """
    make_exp_dirs(opt)
    log, loaders = open_log(opt, f"test_{opt['name']}"), []
    for _, options in sorted(opt["datasets"].items()):
        dataset = build_dataset(options)
        log.info(f"Number of test images in {options['name']}: {len(dataset)}")
        loaders.append(build_dataloader(dataset, options, num_gpu=opt["num_gpu"], dist=opt["dist"]))
    with processes_on_cpus():
        model = build_model(opt)
    for loader in loaders:
        log.info(f"Testing {loader.dataset.opt['name']}...")
        validate(model, loader, opt["name"], progress=bool(opt["val"].get("pbar")))
