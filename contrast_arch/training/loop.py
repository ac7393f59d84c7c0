"""The training loop of contrast-train, and the tests of contrast-test, for any model of BasicSR."""

import faulthandler
import time
from pathlib import Path

import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.utils import get_env_info, get_root_logger, get_time_str, make_exp_dirs, mkdir_and_rename
from basicsr.utils.options import dict2str

from contrast_arch import compat
from contrast_arch.errors import TrainingStopped
from contrast_arch.models import checkpoints
from contrast_arch.models.contrast_model import TRAINER
from contrast_arch.models.resuming import best_results, data_of, fit
from contrast_arch.models.settings import settings_of
from contrast_arch.training import signals, state
from contrast_arch.training.data import TrainingBatches, images_of_an_iteration
from contrast_arch.training.distributed import all_reduce_max, broadcast_object, gather_objects, processes_on_cpus
from contrast_arch.training.progress import Progress
from contrast_arch.training.randomness import random_states, set_random_states
from contrast_arch.training.record import LenientWriter, ProblemHandler, Record
from contrast_arch.training.validation import validate
from contrast_arch.version import __version__


class Trainer:
    """A training run: made, it is ready for its first iteration.

    Args:
        opt: options as BasicSR's parser gives them.
        options_text: the option file, of which the experiment gets a copy.
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
        self._open_experiment(resumed is not None, *option_file)
        self.requests, self.limit = signals.Requests(), signals.TimeLimit(self.settings.train.max_hours)
        self.failure, self.named_problems, self.saved_at, self.validated_at, self.save_seconds = None, set(), -1, -1, 0.0
        now = resumed or state.TrainState(0, 0, {})
        self.iteration, self.epoch, self.position = now.iter, now.epoch, now.position
        self._build(now)
        if resumed is not None:
            self._resume(resumed, override_state)
        images = now.images or now.iter * images_of_an_iteration(opt)
        self.progress = Progress(opt, self.iteration, images, self.record, self.tb_logger, self.bar)
        self._record_run(resumed is not None)

    def _find_state(self):
        """Find the state to go on from: all processes take the one that the first process finds whole."""
        found = state.find_state(self.opt) if self.first else None
        path, self.passed_over = broadcast_object(found and (found[0], found[2]))
        if path is None:
            return None
        resumed = found[1] if found else state.read_state(path, self.opt)
        state.take_up(self.opt, path, resumed)
        return resumed

    def _open_experiment(self, resumed, name, text):
        opt = self.opt
        events = Path(opt["root_path"], "tb_logger", opt["name"])
        has_events = opt["logger"].get("use_tb_logger") and "debug" not in opt["name"]
        if not resumed:
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
        self.record = Record(root / "metrics.jsonl" if self.first else None)
        self.handler = ProblemHandler(self.record)
        self.log.addHandler(self.handler)
        from basicsr.train import init_tb_loggers

        writer = init_tb_loggers(opt)
        self.tb_logger = writer and LenientWriter(writer)

    def _build(self, now):
        """Build datasets, loaders and model, in the order of BasicSR's trainer."""
        opt, self.loaders = self.opt, []
        for phase, options in opt["datasets"].items():
            dataset = build_dataset(options)
            if phase == "train":
                self.batches = TrainingBatches(dataset, opt, now.iter, now.epoch, now.position)
                self.log.info(self.batches.statistics())
            else:
                self.log.info(f"Number of val images/folders in {options['name']}: {len(dataset)}")
                self.loaders.append(build_dataloader(dataset, options, num_gpu=opt["num_gpu"], dist=opt["dist"]))
        opt[TRAINER] = "contrast-train"
        with processes_on_cpus():
            self.model = build_model(opt)
        # What the model saves is written by the loop: whole, and with the loop's own part of the state.
        self.model.save_network, self.model.save_training_state = self._save_network, self._save_state

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
        self.saved_at = resumed.iter
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
            batch=images_of_an_iteration(opt),
            total_iter=self.total,
            resumed=resumed,
            options_digest=self.digest,
        )
        self.log.info(f"Start training from epoch: {self.epoch}, iter: {self.iteration}")

    def run(self) -> None:
        """Train to the last iteration, or until a signal or the time limit ends the run.

        Raises:
            TrainingStopped: it cannot go on.
        """
        if self.settings.train.handle_signals:
            self.requests.listen()
        begun = time.monotonic()
        try:
            if self._validation_due():
                self.log.info(f"Validation of iteration {self.iteration}, which an earlier run did not get to.")
                self._validate()
            if all(self._iterate(batch) for batch in self.batches):
                hours = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - begun))
                self.log.info(f"End of training. Time consumed: {hours}")
                self._finish()
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.requests.ignore()
            self.log.removeHandler(self.handler)
            self.record.close()
            self.progress.bar.close()
            if self.tb_logger:
                self.tb_logger.close()
