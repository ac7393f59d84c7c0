"""Checkpoints and training states of any BasicSR model, written whole by the first process."""

import time

from contrast_arch.errors import TrainingStopped
from contrast_arch.models import checkpoints
from contrast_arch.options.schema import settings_of
from contrast_arch.training.distributed import broadcast_object
from contrast_arch.training.record import Record
from contrast_arch.training.state import TrainState, checksums


class Saver:
    """Writer of what a run leaves on the disk; takes the place of the two functions with which a model writes.

    Args:
        model: of BasicSR. Its own ``save`` says which networks there are.
        opt: options as BasicSR's parser gives them.
        record: takes a line for each checkpoint.

    Attributes:
        saved_at: iteration of the newest state on the disk; -1 for none of this run.
        seconds: of the last save.
    """

    def __init__(self, model, opt: dict, record: Record):
        self.model, self.opt, self.record, self.settings = model, opt, record, settings_of(opt)
        self.saved_at, self.seconds, self.checksums = -1, 0.0, {}
        self._now, self._failure = None, None
        model.save_network, model.save_training_state = self._save_network, self._save_state

    def goes_on_from(self, resumed: TrainState) -> None:
        """Take a state as the newest one on the disk."""
        self.saved_at, self.checksums = resumed.iter, dict(resumed.checksums)

    def save(self, now: TrainState, log, only_state: bool = False, final: bool = False) -> None:
        """Save checkpoints and a state; where that fails the run goes on, but for the last checkpoint.

        Args:
            now: state of the run.
            log: takes what failed.
            only_state: write the state again, beside its checkpoints.
            final: write the checkpoint of the end, named "latest", without a state.

        Raises:
            TrainingStopped: weights are NaN or infinite, or the last checkpoint could not be written.
        """
        begun = time.perf_counter()
        nets = {name: net for name, net in vars(self.model).items() if name.startswith("net_")}
        for net in nets.values() if self.settings.train.max_nonfinite else ():
            checkpoints.refuse_not_finite(self.model.get_bare_model(net), self.opt)
        self._now, self._failure = now, None
        if only_state:
            self._save_state(now.epoch, now.iter)
        else:
            self.checksums = self.checksums if final else {}
            self.model.save(now.epoch, -1 if final else now.iter)
        failure = broadcast_object(self._failure)
        self.seconds = time.perf_counter() - begun
        if failure is None:
            self.saved_at = self.saved_at if final else now.iter
        elif final:
            raise TrainingStopped(f"{failure}; {checkpoints.last_good(self.opt)}")
        else:
            log.error(f"Nothing was saved at iteration {now.iter}: {failure}. Training goes on.")

    def _save_network(self, net, net_label, current_iter, param_key="params"):
        self._try(self._write_network, net, net_label, current_iter, param_key)

    def _save_state(self, epoch, current_iter):
        if current_iter != -1:
            self._try(self._write_state)

    def _try(self, write, *args):
        """Write in the first process, unless something failed before."""
        if self.opt["rank"] == 0 and self._failure is None:
            try:
                write(*args)
            except checkpoints.SaveError as error:
                self._failure = str(error)

    def _write_network(self, *of_basicsr):
        path, content = checkpoints.save_network(self.model, *of_basicsr, self._now.iter)
        self.checksums[path.name] = checksums(content)
        self.record.write("checkpoint", path=str(path), bytes=path.stat().st_size)

    def _write_state(self):
        self._now.checksums = self.checksums
        path, whole = checkpoints.state_file(self.opt, self._now.iter), self.settings.logger.atomic_save
        self._now.write(path, whole)
        checkpoints.remove_older(self.opt, self._now.iter, self._now.model["best_metric_results"])
