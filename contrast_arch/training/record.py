"""The output of a run: log, progress bar, and metrics.jsonl and TensorBoard's events, which are no reason to end it."""

import json
import logging
import statistics
import time
from collections import deque
from pathlib import Path

from basicsr.utils import MessageLogger, get_root_logger
from tqdm import tqdm

from contrast_arch.memory import peak_memory
from contrast_arch.models.checkpoints import TrainState


class Lenient:
    """Stand-in for a writer to a disk that may be full: after the first OSError it writes no more, and the log says so.

    TensorBoard's writer raises the first error of its thread at every call after it.
    """

    def __init__(self, writer, what: str):
        self._writer, self._what = writer, what

    def __getattr__(self, name):
        def call(*args, **kwargs):
            try:
                return self._writer and getattr(self._writer, name)(*args, **kwargs)
            except OSError as error:
                self._writer = None
                get_root_logger().warning(f"{self._what} end here ({error}); the log and the training go on")

        return call


class Record:
    """Clock of a run, and its ``metrics.jsonl``, whose lines are in docs/report.md. NaN is written as Python writes it.

    Args:
        path: None in all processes but the first.
        now: state of the run, which its loop keeps up to date.
        tb_logger: TensorBoard's writer, or None.

    Attributes:
        tick: end of the last iteration, with its save and validation; the loop sets it.
        iterations, waits: seconds of recent iterations, and of their waits for images.
        handler: of a log; puts warnings and errors into the record too.
    """

    def __init__(self, path: Path | None, opt: dict, now: TrainState, tb_logger=None, bar: bool = False):
        self.opt, self.now, self.begun_at, self.seconds = opt, now, now.iter, 0.0
        self.tb_logger = tb_logger and Lenient(tb_logger, "TensorBoard's events")
        self.iterations, self.waits = deque(maxlen=200), deque(maxlen=200)
        self.bar = tqdm(total=int(opt["train"]["total_iter"]), initial=now.iter, disable=not bar, dynamic_ncols=True)
        self.tick = time.perf_counter()
        # BasicSR's line. The time left is at the speed of the run so far; with these numbers it ends at 0.
        self.log_line = MessageLogger(opt, now.iter + 1, self.tb_logger)
        self.log_line.max_iters += 1
        file = path and path.open("ab+", buffering=0)
        if file:
            # A line that a kill has torn is cut off.
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        self._file = file and Lenient(file, "The lines of metrics.jsonl")
        self.handler = logging.Handler(logging.WARNING)
        self.handler.emit = lambda line: self.write("problem", message=line.getMessage())

    def write(self, kind: str, **fields) -> None:
        """Append a line, which is on its way to the disk at once."""
        if self._file:
            line = {"kind": kind, "time": round(time.time(), 3), "iteration": self.now.iter, **fields}
            self._file.write(f"{json.dumps(line)}\n".encode())

    def close(self) -> None:
        """Close all outputs; later lines, as of a handler that tqdm has put back into the log, are left out."""
        for output in filter(None, (self._file, self.bar, self.tb_logger)):
            output.close()
        self._file = None

    def iteration_is_done(self, model) -> None:
        """Measure an iteration, and write its line to log, record and TensorBoard at every ``print_freq``."""
        iteration = self.now.iter
        self.iterations.append(time.perf_counter() - self.tick)
        self.seconds += self.iterations[-1]
        if iteration == self.begun_at + 2:
            # The first one compiles, or measures kernels.
            self.iterations.popleft()
            self.waits.popleft()
        self.bar.update(iteration - self.bar.n)
        if iteration % self.opt["logger"]["print_freq"] or self.opt["rank"]:
            return
        rates, values = model.get_current_learning_rate(), dict(model.get_current_log())
        seconds, waited = statistics.fmean(self.iterations), statistics.fmean(self.waits)
        line = {"epoch": self.now.epoch, "iter": iteration, "lrs": rates, "time": seconds, "data_time": waited}
        self.log_line(line | values)
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
        place = {"images": self.now.images, "seconds": round(self.seconds, 3), "epoch": self.now.epoch}
        more = {"iteration_seconds": seconds, "data_seconds": waited, "memory_bytes": peak_memory()}
        self.write("train", **place, values={"lr": rates[0], **values}, **more)
