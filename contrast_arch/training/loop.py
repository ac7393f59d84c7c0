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
from contrast_arch.models import checkpoints, optimizers
from contrast_arch.models.contrast_model import TRAINER
from contrast_arch.options.validation import micro_batches, settings_of
from contrast_arch.training import data, signals
from contrast_arch.training.distributed import all_reduce_max, broadcast_object, gather_objects, processes_on_cpus
from contrast_arch.training.record import Record
from contrast_arch.training.validation import validate
from contrast_arch.version import __version__


class Trainer:
    """A training run: made, it is ready for its first iteration; InputError where it cannot be.

    Args:
        opt: options as BasicSR's parser gives them; ``manual_seed`` only where the file has one.
        option_file: name and text of the experiment's copy of the option file.
        override_state: resume with the option file's values in place of the state's.
        bar: show progress bars.

    Attributes:
        now: the state of the run.
        saved_at, validated_at: iterations of the newest state on the disk, and of the last whole validation; -1: none.
    """

    def __init__(self, opt: dict, option_file: tuple[str, str], override_state: bool = False, bar: bool = False):
        self.opt, self.settings, self.first = opt, settings_of(opt), opt["rank"] == 0
        self.bar, self.total, digest = (
            bar and self.first,
            int(opt["train"]["total_iter"]),
            checkpoints.options_digest(opt),
        )
        torch.backends.cudnn.benchmark = True
        resumed, passed_over = self._find_state()
        try:
            self._open_experiment(resumed is not None, *option_file)
        except OSError as error:
            raise TrainingStopped(f"the folder of the experiment cannot be written: {error}") from error
        for line in passed_over:
            self.log.warning(f"Passed over: {line}")
        self.requests, self.end = signals.Requests(), signals.end_of(self.settings.train.max_hours)
        self.named_problems, self.saved_at, self.validated_at, self.saving_seconds = set(), -1, -1, 0.0
        # The loader gives all micro-batches of an iteration together.
        options = opt["datasets"]["train"]
        options["batch_size_per_gpu"] *= micro_batches(opt)
        # Without a launcher BasicSR shares a batch out among the GPUs of one process.
        self.batch = options["batch_size_per_gpu"] * (opt["world_size"] if opt["dist"] else max(1, opt["num_gpu"]))
        self.now.images = self.now.images or self.now.iter * self.batch
        # In the order of BasicSR's trainer. Of its loaders the datasets are taken, and what the log says of them.
        loader, _, self.loaders, *_ = basicsr_train.create_train_val_dataloader(opt, self.log)
        self.loader = data.training_loader(loader.dataset, opt, self.batch, self.now)
        opt[TRAINER] = "contrast-train"
        with processes_on_cpus():
            self.model = build_model(opt)
        self.model.save_network, self.model.save_training_state = self._save_network, self._save_state
        if resumed is not None:
            self._resume(resumed, override_state)
        basicsr = compat.basicsr_in_use().partition(" (")[0]
        self.now.versions = {"package": __version__, "torch": str(torch.__version__), "basicsr": basicsr}
        self.now.seed, self.now.options_digest = opt["manual_seed"], digest
        device = torch.cuda.get_device_name() if self.model.device.type == "cuda" else "cpu"
        about = {"name": opt["name"], "model": opt["model_type"], "network": opt["network_g"]["type"], "device": device}
        about |= {"processes": opt["world_size"], "batch": self.batch, "total_iter": self.total}
        about |= {"resumed": resumed is not None, "options_digest": digest, **self.now.versions}
        self.record.write("run", **about)
        self.log.info(f"Start training from epoch: {self.now.epoch}, iter: {self.now.iter}")

    def _find_state(self):
        """Find the state to go on from, which the first process reads, and the seed of the run."""
        opt = self.opt
        path, resumed, passed_over = broadcast_object(checkpoints.find_state(opt) if self.first else None)
        if resumed is not None:
            opt["path"]["resume_state"] = str(path)
            for label in checkpoints.networks_of(opt):
                opt["path"][f"pretrain_network_{label}"] = str(checkpoints.network_file(opt, resumed.iter, label))
                # Each checkpoint of a run has its weights there, whatever the run itself began with.
                opt["path"][f"param_key_{label}"] = "params"
        if opt.get("manual_seed") is None:
            saved = resumed and resumed.seed
            opt["manual_seed"] = broadcast_object(random.randint(1, 10_000)) if saved is None else saved
            set_random_seed(opt["manual_seed"] + opt["rank"])
        found = resumed or checkpoints.TrainState(0, 0, {})
        self.now = replace(found, checksums=dict(found.checksums))
        return resumed, passed_over

    def _open_experiment(self, resumed, name, text):
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
        self.log, file = open_log(opt, "train")
        if minutes is None:
            minutes = 30 if opt["world_size"] > 1 else 0
        self.watchdog = signals.Watchdog(minutes, file, opt["rank"])
        writer, file = basicsr_train.init_tb_loggers(opt), root / "metrics.jsonl" if self.first else None
        self.record = Record(file, opt, self.now, writer, self.bar)
        self.log.addHandler(self.record.handler)

    def _resume(self, resumed, override_state):
        content, rank = resumed.for_model(), self.opt["rank"]
        optimizers.fit(self.model, content, override_state)
        self.model.resume_training(content)
        if rank < len(resumed.random_states):
            data.set_random_states(resumed.random_states[rank])
        self.saved_at, self.validated_at = resumed.iter, -1 if resumed.validation_due else resumed.iter
        self.log.info(f"Resuming training from epoch: {resumed.epoch}, iter: {resumed.iter}.")

    def run(self) -> None:
        """Train to the last iteration, or until a signal or the time limit ends the run; TrainingStopped where it
        cannot go on."""
        redirected = logging_redirect_tqdm([self.log]) if self.bar else contextlib.nullcontext()
        with contextlib.closing(self.record), self.requests, self.watchdog, redirected:
            self._train()

    def _train(self):
        begun, on_gpu = time.monotonic(), self.opt["datasets"]["train"].get("prefetch_mode") == "cuda"
        if self._validation_due():
            self.log.info(f"Validation of iteration {self.now.iter}, which an earlier run did not get to.")
            self._validate()
        batches = iter(CUDAPrefetcher(self.loader, self.opt).next, None) if on_gpu else self.loader
        self.record.tick = time.perf_counter()
        for batch in batches:
            if not self._iterate(batch):
                return
            self.record.tick = time.perf_counter()
        consumed = datetime.timedelta(seconds=int(time.monotonic() - begun))
        self.log.info(f"End of training. Time consumed: {consumed}")
        self.log.info("Save the latest model.")
        self._save(latest=True)

    def _iterate(self, batch) -> bool:
        """Train an iteration, save and validate; False if the run ends before it."""
        self.record.waits.append(time.perf_counter() - self.record.tick)
        epoch, position = int(batch.pop("epoch")[0]), int(batch.pop("position")[0]) - self.opt["rank"]
        problems = dict.fromkeys(filter(None, batch.pop("problem")))
        if self._stops(None if self.settings.datasets.train.skip_unreadable else next(iter(problems), None)):
            return False
        for problem in problems.keys() - self.named_problems:
            # No warning: BasicSR shows those of the first process alone.
            self.log.error(f"{problem}; the image after it was taken instead")
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
        self.record.iteration_is_done(self.model)
        self.watchdog.progress()
        if iteration % self.opt["logger"]["save_checkpoint_freq"] == 0:
            self.log.info("Saving models and training states.")
            self._save()
        if self._validation_due():
            self._validate()
        return True

    def _request(self, problem=None):
        """Return the highest request of all processes, between two iterations or two images of a validation."""
        # Twice what an iteration and a save need. A start trains at least one: a requeued job must come to an end.
        needed = 2 * (max(self.record.iterations, default=0) + self.saving_seconds)
        time_is_up = self.now.iter > self.record.begun_at and time.monotonic() + needed > self.end
        wanted = signals.TIME_IS_UP if time_is_up else signals.STOP if problem else self.requests.wanted
        wanted = all_reduce_max(wanted)
        if wanted == self.requests.wanted == signals.SAVE:
            self.requests.wanted = signals.NOTHING
        if wanted == signals.SAVE and self.saved_at != self.now.iter:
            self._save()
        return wanted

    def _stops_between_images(self):
        """Called before each image of a validation."""
        self.watchdog.progress()
        return self._request() >= signals.STOP

    def _stops(self, problem):
        """Answer signals, the time limit and an unreadable image; True if the run is to end."""
        wanted, done = self._request(problem), self.now.iter
        if wanted < signals.STOP:
            return False
        if self.saved_at != done:
            self._save(needed=True)
        end = f"after iteration {done}; --auto_resume goes on from there"
        if problem:
            mend = "Mend the file, leave it out, or give datasets: train: skip_unreadable: true"
            raise TrainingStopped(f"{problem}\n{mend}. Saved {end}")
        time_is_up = wanted == signals.TIME_IS_UP
        self.log.info(f"{'The time limit is near: stopped' if time_is_up else 'Stopped'} {end}.")
        if time_is_up and self.first and self.settings.train.requeue:
            self.log.info(signals.requeue())
        return True

    def _validation_due(self):
        """True if the weights of this iteration are still to be validated: at ``val_freq``, and at the end."""
        val, now = self.opt.get("val"), self.now.iter
        due = val and self.loaders and now > 0 and (now % val["val_freq"] == 0 or now == self.total)
        return bool(due and self.validated_at != now)

    def _validate(self):
        bar = self.bar or (self.first and bool(self.opt["val"].get("pbar")))
        for loader in self.loaders:
            name = loader.dataset.opt["name"]
            found = validate(self.model, loader, self.now.iter, self.record.tb_logger, self._stops_between_images, bar)
            if found is None:
                self.log.info(f"Validation of {name} was broken off; a resumed run begins with it.")
                return
            best = getattr(self.model, "best_metric_results", {}).get(name, {})
            best = {key: {"value": one["val"], "iteration": one["iter"]} for key, one in best.items()}
            values = {"values": found[0], "best": best, "values_per_image": found[1]}
            self.record.write("validation", images=self.now.images, set=name, **values)
        self.validated_at = self.now.iter
        self.watchdog.progress()
        if self.saved_at == self.now.iter:
            # With the metrics that it did not have yet.
            self._save(only_state=True)

    def _save(self, only_state=False, latest=False, needed=False):
        """Save checkpoints and a state, the state alone, or the checkpoint named "latest" alone; the run goes on where
        it fails, unless the save is needed."""
        begun, failure, now = time.perf_counter(), None, self.now
        now.model, now.validation_due = checkpoints.model_state(self.model), self._validation_due()
        now.random_states = gather_objects(data.random_states())
        now.checksums = now.checksums if only_state or latest else {}
        try:
            if only_state:
                self._save_state(now.epoch, now.iter)
            else:
                self.model.save(now.epoch, -1 if latest else now.iter)
        except (OSError, TrainingStopped) as error:
            failure = error
        failure = broadcast_object(failure)
        if isinstance(failure, TrainingStopped):
            raise failure
        if failure and (needed or now.iter == self.total):
            raise TrainingStopped(f"{failure}; {checkpoints.last_good(self.opt)}")
        if failure:
            self.log.error(f"Nothing was saved at iteration {now.iter}: {failure}. Training goes on.")
        elif not latest:
            self.saved_at = now.iter
        self.saving_seconds = time.perf_counter() - begun
        self.watchdog.progress()

    def _save_network(self, net, net_label, current_iter, param_key="params"):
        """Save as BasicSR's function of that name, whose place it takes."""
        if self.first:
            of_basicsr = (net, net_label, current_iter, param_key)
            path, content = checkpoints.save_network(self.model, self.settings, self.now.iter, *of_basicsr)
            self.now.checksums[path.name] = checkpoints.checksums(content)
            self.record.write("checkpoint", path=str(path), bytes=path.stat().st_size)

    def _save_state(self, epoch, current_iter):
        if self.first and current_iter != -1:
            checkpoints.save_state(self.opt, self.settings, self.now.content())


def open_log(opt: dict, action: str) -> tuple[logging.Logger, str]:
    """Open the log of a run, whose first lines name the versions and options; return it and its file."""
    logging.raiseExceptions = False  # a log on a full or broken disk is no reason for tracebacks
    file = broadcast_object(str(Path(opt["path"]["log"], f"{action}_{opt['name']}_{get_time_str()}.log")))
    log = get_root_logger(log_file=file)
    log.info(f"{get_env_info()}\n\tcontrast_arch: {__version__}, run by BasicSR {compat.basicsr_in_use()}")
    log.info(dict2str(opt))
    return log, file


def test(opt: dict) -> None:
    """Test a model of BasicSR on every dataset of an option file; see :func:`validate`."""
    make_exp_dirs(opt)
    (log, _), loaders = open_log(opt, "test"), []
    for _, options in sorted(opt["datasets"].items()):
        loaders.append(build_dataloader(build_dataset(options), options, num_gpu=opt["num_gpu"], dist=opt["dist"]))
        log.info(f"Number of test images in {options['name']}: {len(loaders[-1])}")
    with processes_on_cpus():
        model = build_model(opt)
    for loader in loaders:
        log.info(f"Testing {loader.dataset.opt['name']}...")
        validate(model, loader, opt["name"], progress=bool(opt["val"].get("pbar")))
