"""The output of a run: metrics.jsonl and TensorBoard's events, which are no reason to end it, log and progress bar."""

import contextlib
import datetime
import json
import logging
import statistics
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from basicsr.utils import get_root_logger
from tqdm import tqdm

from contrast_arch.memory import peak_memory
from contrast_arch.training.state import TrainState


class Lenient:
    """Stand-in for a writer to a disk that may be full: after the first OSError it writes no more, and the log says so.

    TensorBoard's writer raises the first error of its thread at every call after it.
    """

    def __init__(self, writer, what: str):
        self._writer, self._what, self._failed = writer, what, False

    def __getattr__(self, name):
        def call(*args, **kwargs):
            try:
                return None if self._failed else getattr(self._writer, name)(*args, **kwargs)
            except OSError as error:
                self._failed = True
                get_root_logger().warning(f"{self._what} end here ({error}); the log and the training go on")

        return call


class Record:
    """``metrics.jsonl`` of an experiment: a JSON object a line, each on its way to the disk when it is written.

    Every line has ``kind`` (run, train, validation, checkpoint or problem), ``time`` (Unix seconds) and ``iteration``.
    A line that a kill has torn is cut off when the file is opened. Lines after the iteration from which a run goes on
    stay; the last value of an iteration counts. NaN is written as Python writes it.

    Attributes:
        iteration: the last one that was trained.
        handler: of a log; puts warnings and errors into the record too.
    """

    def __init__(self, path: Path | None):
        self.iteration, what = 0, "The lines of metrics.jsonl"
        file = path and Lenient(path, what).open("ab+", buffering=0)
        if file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        self._file = file and Lenient(file, what)
        self.handler = logging.Handler(logging.WARNING)
        self.handler.emit = lambda line: self.write("problem", message=line.getMessage())

    def write(self, kind: str, **fields) -> None:
        """Append a line."""
        if self._file:
            line = {"kind": kind, "time": round(time.time(), 3), "iteration": self.iteration, **fields}
            self._file.write(f"{json.dumps(line)}\n".encode())

    def close(self) -> None:
        """Close the file; later lines, as of a handler that tqdm has put back into the log, are left out."""
        if self._file:
            self._file.close()
            self._file = None


class Progress:
    """Clock of a training run, and its line in log, record and TensorBoard at every ``print_freq``.

    Args:
        now: state of the run, which its loop keeps up to date.
    """

    def __init__(self, opt: dict, now: TrainState, record: Record, tb_logger, bar: bool):
        self.opt, self.record, self.tb_logger = opt, record, tb_logger
        self.now, self.first, self.total = now, now.iter, int(opt["train"]["total_iter"])
        self.seconds = 0.0  # of training, without validation
        # Those that an estimate is made from.
        self.iterations, self.waits, self.validations = deque(maxlen=200), deque(maxlen=200), deque(maxlen=3)
        self.bar = tqdm(total=self.total, initial=now.iter, unit="iter", disable=not bar, dynamic_ncols=True)
        self.record.iteration, self.tick = now.iter, time.perf_counter()

    def data_is_there(self) -> None:
        """Measure the iteration's wait for its images."""
        self.waits.append(time.perf_counter() - self.tick)

    def iteration_is_done(self, model) -> None:
        """Measure an iteration, with the save before it, and write its line at ``print_freq``."""
        now, iteration = time.perf_counter(), self.now.iter
        self.iterations.append(now - self.tick)
        self.seconds += now - self.tick
        self.tick = now
        if iteration == self.first + 2:
            # The first one compiles, or measures kernels.
            self.iterations.popleft()
            self.waits.popleft()
        self.record.iteration = iteration
        self.bar.update(iteration - self.bar.n)
        if iteration % self.opt["logger"]["print_freq"] == 0 and self.opt["rank"] == 0:
            self._say(iteration, self.now.epoch, model)

    def _say(self, iteration, epoch, model):
        rates, values = model.get_current_learning_rate(), dict(model.get_current_log())
        seconds, waited = statistics.fmean(self.iterations), statistics.fmean(self.waits)
        left = datetime.timedelta(seconds=round(self.remaining(iteration)))
        get_root_logger().info(
            f"[{self.opt['name'][:5]}..][epoch:{epoch:3d}, iter:{iteration:8,d}, lr:("
            + "".join(f"{rate:.3e}," for rate in rates)
            + f")] [eta: {left}, time (data): {seconds:.3f} ({waited:.3f})] "
            + "".join(f"{name}: {value:.4e} " for name, value in values.items())
        )
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
        for name, value in values.items() if self.tb_logger else ():
            self.tb_logger.add_scalar(f"losses/{name}" if name.startswith("l_") else name, value, iteration)
        more = {"iteration_seconds": seconds, "data_seconds": waited, "memory_bytes": peak_memory()}
        place = {"images": self.now.images, "seconds": round(self.seconds, 3), "epoch": epoch}
        values = {"lr": rates[0], **values}
        self.record.write("train", **place, values=values, **more)

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Measure a validation, which does not count as training."""
        begun = time.perf_counter()
        # Of a save.
        self.seconds += begun - self.tick
        if self.iterations:
            self.iterations[-1] += begun - self.tick
        yield
        self.tick = time.perf_counter()
        self.validations.append(self.tick - begun)

    def remaining(self, iteration: int) -> float:
        """Estimate the seconds to the end, from recent iterations and validations."""
        val_freq = (self.opt.get("val") or {}).get("val_freq")
        # One more at the end, where the last iteration has none of its own.
        validations = -(-self.total // val_freq) - iteration // val_freq if val_freq and self.validations else 0
        seconds = statistics.fmean(self.iterations) * (self.total - iteration)
        return max(0.0, seconds + validations * statistics.fmean(self.validations or [0]))
