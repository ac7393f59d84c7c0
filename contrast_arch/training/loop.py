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
from basicsr.data.prefetch_dataloader import CUDAPrefetcher
from basicsr.models import build_model
from basicsr.utils import get_env_info, get_root_logger, get_time_str, make_exp_dirs, mkdir_and_rename, set_random_seed
from basicsr.utils.options import dict2str
from tqdm.contrib.logging import logging_redirect_tqdm

from contrast_arch import compat
from contrast_arch.errors import TrainingStopped
from contrast_arch.models import checkpoints
from contrast_arch.models.contrast_model import TRAINER
from contrast_arch.models.resuming import best_results, data_of, fit
from contrast_arch.options.validation import settings_of
from contrast_arch.training import data, signals, state
from contrast_arch.training.distributed import all_reduce_max, broadcast_object, gather_objects, processes_on_cpus
from contrast_arch.training.record import Lenient, Progress, Record
from contrast_arch.training.validation import validate
from contrast_arch.version import __version__


class Trainer:
    """A training run: made, it is ready for its first iteration; InputError where it cannot be.

    Args:
        opt: options as BasicSR's parser gives them; ``manual_seed`` only where the file has one.
        option_file: name and text of the experiment's copy of the option file.
        override_state: resume with the option file's values in place of the state's.
        bar: show progress bars.
    """

    def __init__(self, opt: dict, option_file: tuple[str, str], override_state: bool = False, bar: bool = False):
        self.opt, self.settings, self.first = opt, settings_of(opt), opt["rank"] == 0
        self.bar = bar and self.first
        digest = state.options_digest(opt)
        torch.backends.cudnn.benchmark = True
        resumed, passed_over = self._find_state()
        batched, self.batch = data.with_accumulation(opt)
        try:
            self._open_experiment(resumed is not None, passed_over, *option_file)
        except OSError as error:
            raise TrainingStopped(f"the folder of the experiment cannot be written: {error}") from error
        self.requests, self.end = signals.Requests(), signals.end_of(self.settings.train.max_hours)
        self.named_problems, self.validated_at = set(), -1
        self.now = state.TrainState(0, 0, {}) if resumed is None else replace(resumed)
        self.now.images = self.now.images or self.now.iter * self.batch
        # In the order of BasicSR's trainer. Of its loaders the datasets are taken, and what the log says of them.
        loader, _, self.loaders, *_ = basicsr_train.create_train_val_dataloader(batched, self.log)
        self.loader = data.training_loader(loader.dataset, batched, self.batch, self.now)
        opt[TRAINER] = "contrast-train"
        with processes_on_cpus():
            self.model = build_model(opt)
        self.saver = state.Saver(self.model, self.settings, self.record)
        if resumed is not None:
            self._resume(resumed, override_state)
        self.now.data, self.now.seed, self.now.options_digest = data_of(opt), opt["manual_seed"], digest
        basicsr = compat.basicsr_in_use().partition(" (")[0]
        self.now.versions = {"package": __version__, "torch": str(torch.__version__), "basicsr": basicsr}
        self.progress = Progress(opt, self.now, self.record, self.tb_logger, self.bar)
        device = torch.cuda.get_device_name() if self.model.device.type == "cuda" else "cpu"
        of_file = {"name": opt["name"], "model": opt["model_type"], "network": opt["network_g"]["type"]}
        of_start = {"device": device, "processes": opt["world_size"], "batch": self.batch, "options_digest": digest}
        of_start |= {"total_iter": self.progress.total, "resumed": resumed is not None}
        self.record.write("run", **of_file, **self.now.versions, **of_start)
        self.log.info(f"Start training from epoch: {self.now.epoch}, iter: {self.now.iter}")

    def _find_state(self):
        """Find the state to go on from, which the first process finds whole, and the seed of the run."""
        opt, resumed = self.opt, None
        found = state.find_state(opt) if self.first else None
        path, passed_over = broadcast_object(found and (found[0], found[2]))
        if path is not None:
            resumed = found[1] if found else state.read_state(path, opt)
            opt["path"]["resume_state"] = str(path)
            for label in state.networks_of(opt):
                opt["path"][f"pretrain_network_{label}"] = str(checkpoints.network_file(opt, resumed.iter, label))
                # Each checkpoint of a run has its weights there, whatever the run itself began with.
                opt["path"][f"param_key_{label}"] = "params"
        if opt.get("manual_seed") is None:
            drawn, saved = broadcast_object(random.randint(1, 10_000)), resumed and resumed.seed
            opt["manual_seed"] = drawn if saved is None else saved
            set_random_seed(opt["manual_seed"] + opt["rank"])
        return resumed, passed_over

    def _open_experiment(self, resumed, passed_over, name, text):
        opt, minutes = self.opt, self.settings.train.watchdog_minutes
        if resumed:
            # It may be the state of a run of another name.
            for folder in ("models", "training_states", "visualization"):
                Path(opt["path"][folder]).mkdir(parents=True, exist_ok=True)
        else:
            make_exp_dirs(opt)
            if opt["logger"].get("use_tb_logger") and "debug" not in opt["name"] and self.first:
                mkdir_and_rename(str(Path(opt["root_path"], "tb_logger", opt["name"])))
        root = Path(opt["path"]["experiments_root"])
        if self.first:
            checkpoints.remove_unfinished(opt)
            (root / name).write_text(text)
        self.log = open_log(opt, f"train_{opt['name']}")
        for line in passed_over:
            self.log.warning(f"Passed over: {line}")
        if minutes is None:
            minutes = 30 if opt["world_size"] > 1 else 0
        # BasicSR gives a file to the log of the first process only.
        file = next((handler.baseFilename for handler in self.log.handlers if hasattr(handler, "baseFilename")), None)
        self.watchdog = signals.Watchdog(minutes, broadcast_object(file), opt["rank"])
        self.record = Record(root / "metrics.jsonl" if self.first else None)
        self.log.addHandler(self.record.handler)
        writer = basicsr_train.init_tb_loggers(opt)
        self.tb_logger = writer and Lenient(writer, "TensorBoard's events")

    def _resume(self, resumed, override_state):
        content = resumed.for_model()
        for message in fit(self.model, content, override_state):
            self.log.warning(message)
        self.model.resume_training(content)
        self.model.best_metric_results = best_results(self.opt, content)
        if self.opt["rank"] < len(resumed.random_states):
            data.set_random_states(resumed.random_states[self.opt["rank"]])
        self.saver.saved_at, self.saver.checksums = resumed.iter, dict(resumed.checksums)
        if not resumed.validation_due:
            self.validated_at = resumed.iter
        self.log.info(f"Resuming training from epoch: {resumed.epoch}, iter: {resumed.iter}.")

    def run(self) -> None:
        """Train to the last iteration, or until a signal or the time limit ends the run; TrainingStopped where it
        cannot go on."""
        self.requests.listen()
        self.watchdog.start()
        try:
            with logging_redirect_tqdm([self.log]) if self.bar else contextlib.nullcontext():
                self._train()
        finally:
            self.watchdog.stop()
            self.requests.ignore()
            self.log.removeHandler(self.record.handler)
            for output in filter(None, (self.record, self.progress.bar, self.tb_logger)):
                output.close()

    def _train(self):
        begun, on_gpu = time.monotonic(), self.opt["datasets"]["train"].get("prefetch_mode") == "cuda"
        if self._validation_due():
            self.log.info(f"Validation of iteration {self.now.iter}, which an earlier run did not get to.")
            self._validate()
        batches = iter(CUDAPrefetcher(self.loader, self.opt).next, None) if on_gpu else self.loader
        if all(self._iterate(batch) for batch in batches):
            consumed = datetime.timedelta(seconds=int(time.monotonic() - begun))
            self.log.info(f"End of training. Time consumed: {consumed}")
            self.log.info("Save the latest model.")
            self._save(final=True)
            if self.opt.get("val") and self.validated_at != self.now.iter:
                self._validate()
            self._check_saved()

    def _iterate(self, batch) -> bool:
        """Train an iteration; False if the run ends before it."""
        self.progress.data_is_there()
        epoch, position = int(batch.pop("epoch")[0]), int(batch.pop("position")[0]) - self.opt["rank"]
        problems = dict.fromkeys(filter(None, batch.pop("problem")))
        if self._asked_to_end(None if self.settings.datasets.train.skip_unreadable else next(iter(problems), None)):
            return False
        for problem in problems.keys() - self.named_problems:
            # BasicSR keeps the warnings of all processes but the first one to itself.
            (self.log.warning if self.first else self.log.error)(f"{problem}; the image after it was taken instead")
        self.named_problems.update(problems)
        if position == 0:
            # BasicSR's loader draws a number for each epoch, and its prefetcher one more at the start.
            torch.empty(2 if self.now.iter == 0 else 1, dtype=torch.int64).random_()
        iteration = self.now.iter + 1
        self.model.update_learning_rate(iteration, warmup_iter=self.opt["train"].get("warmup_iter", -1))
        self.model.feed_data(batch)
        self.model.optimize_parameters(iteration)
        self.now.iter, self.now.epoch, self.now.position = iteration, epoch, position + self.batch
        self.now.images += self.batch
        self.progress.iteration_is_done(self.model)
        self.watchdog.progress()
        if iteration % self.opt["logger"]["save_checkpoint_freq"] == 0:
            self.log.info("Saving models and training states.")
            self._save()
        if self._validation_due():
            self._validate()
        return True

    def _wanted(self, problem=None):
        """Return the highest request of all processes, between two iterations or two images of a validation."""
        # Twice what an iteration and a save need. A start trains at least one: a requeued job must come to an end.
        needed = 2 * (max(self.progress.iterations, default=0) + self.saver.seconds)
        time_is_up = self.now.iter > self.progress.first and time.monotonic() + needed > self.end
        wanted = signals.TIME_IS_UP if time_is_up else signals.STOP if problem else self.requests.wanted
        wanted = all_reduce_max(wanted)
        if wanted == self.requests.wanted == signals.SAVE:
            self.requests.wanted = signals.NOTHING
        if wanted == signals.SAVE and self.saver.saved_at != self.now.iter:
            self._save()
        return wanted

    def _check_saved(self):
        if self.saver.failed_at == self.now.iter:
            raise TrainingStopped(f"iteration {self.now.iter} could not be saved; {checkpoints.last_good(self.opt)}")

    def _asked_to_end(self, problem):
        """Answer signals, the time limit and an unreadable image; True if the run is to end."""
        wanted, done = self._wanted(problem), self.now.iter
        if wanted < signals.STOP:
            return False
        if self.saver.saved_at != done:
            self._save()
            self._check_saved()
        if problem:
            raise TrainingStopped(
                f"{problem}\nMend the file, leave it out, or give datasets: train: skip_unreadable: true. Saved after "
                f"iteration {done}; --auto_resume goes on from there"
            )
        time_is_up = wanted == signals.TIME_IS_UP
        why = "The time limit is near: stopped" if time_is_up else "Stopped"
        self.log.info(f"{why} after iteration {done}; --auto_resume goes on from there.")
        if time_is_up and self.first and self.settings.train.requeue:
            self.log.info(signals.requeue())
        return True

    def _broken_off(self):
        """Asked before the images of a validation."""
        self.watchdog.progress()
        return self._wanted() >= signals.STOP

    def _validation_due(self):
        """True if the weights of this iteration are still to be validated, at ``val_freq``."""
        val, now = self.opt.get("val"), self.now.iter
        return bool(val and self.loaders) and now > 0 and now % val["val_freq"] == 0 and self.validated_at != now

    def _validate(self):
        with self.progress.validating():
            for loader in self.loaders:
                name = loader.dataset.opt["name"]
                bar = self.bar or (self.first and bool(self.opt["val"].get("pbar")))
                found = validate(self.model, loader, self.now.iter, self.tb_logger, self._broken_off, bar)
                if found is None:
                    self.log.info(f"Validation of {name} was broken off; a resumed run begins with it.")
                    return
                best = getattr(self.model, "best_metric_results", {}).get(name, {})
                best = {key: {"value": one["val"], "iteration": one["iter"]} for key, one in best.items()}
                values = {"values": found[0], "best": best, "values_per_image": found[1]}
                self.record.write("validation", images=self.now.images, set=name, **values)
        self.validated_at = self.now.iter
        self.watchdog.progress()
        if self.saver.saved_at == self.now.iter:
            # With the metrics that it did not have yet.
            self._save(only_state=True)

    def _save(self, **how):
        # The validation of the last iteration comes after its last save.
        last = self.now.iter == self.progress.total and self.validated_at != self.now.iter
        self.now.model, self.now.validation_due = checkpoints.model_state(self.model), self._validation_due() or last
        self.now.random_states = gather_objects(data.random_states())
        self.saver.save(self.now, self.log, **how)
        self.watchdog.progress()


def open_log(opt: dict, name: str):
    """Open the log of a run, with BasicSR's file; its first lines name the versions and options."""
    logging.raiseExceptions = False  # a log on a full or broken disk is no reason for tracebacks
    log = get_root_logger(log_file=str(Path(opt["path"]["log"], f"{name}_{get_time_str()}.log")))
    log.info(f"{get_env_info()}\n\tcontrast_arch: {__version__}, run by BasicSR {compat.basicsr_in_use()}")
    log.info(dict2str(opt))
    return log


def test(opt: dict) -> None:
    """Test a model of BasicSR on every dataset of an option file; see :func:`validate`."""
    make_exp_dirs(opt)
    log, loaders = open_log(opt, f"test_{opt['name']}"), []
    for _, options in sorted(opt["datasets"].items()):
        loaders.append(build_dataloader(build_dataset(options), options, num_gpu=opt["num_gpu"], dist=opt["dist"]))
        log.info(f"Number of test images in {options['name']}: {len(loaders[-1])}")
    with processes_on_cpus():
        model = build_model(opt)
    for loader in loaders:
        log.info(f"Testing {loader.dataset.opt['name']}...")
        validate(model, loader, opt["name"], progress=bool(opt["val"].get("pbar")))
