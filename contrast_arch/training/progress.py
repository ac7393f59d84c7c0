"""Progress of a training run: lines of the log, TensorBoard, the record, and a progress bar."""

import contextlib
import datetime
import statistics
import time
from collections import deque
from collections.abc import Iterator

from basicsr.utils import get_root_logger
from tqdm import tqdm

from contrast_arch.memory import peak_memory
from contrast_arch.training.record import Record
from contrast_arch.training.state import TrainState

# Iterations, and validations, that an estimate is made from.
RECENT_ITERATIONS, RECENT_VALIDATIONS = 200, 3


class Progress:
    """Clock of a training run, and what it says at every ``print_freq``.

    Args:
        opt: see :func:`~contrast_arch.training.data.with_accumulation`.
        now: state of the run, which its loop keeps up to date.
        record: takes the lines of metrics.jsonl.
        tb_logger: TensorBoard's writer, or None.
        bar: show a progress bar.
    """

    def __init__(self, opt: dict, now: TrainState, record: Record, tb_logger, bar: bool):
        self.opt, self.record, self.tb_logger = opt, record, tb_logger
        self.now, self.first, self.total = now, now.iter, int(opt["train"]["total_iter"])
        self.seconds = 0.0  # of training, without validation
        self.iterations, self.waits = deque(maxlen=RECENT_ITERATIONS), deque(maxlen=RECENT_ITERATIONS)
        self.validations = deque(maxlen=RECENT_VALIDATIONS)
        self.bar = tqdm(total=self.total, initial=now.iter, unit="iter", disable=not bar, dynamic_ncols=True)
        self.tick = time.perf_counter()

    def data_is_there(self) -> None:
        """Take the time that the iteration has waited for its images."""
        self.waits.append(time.perf_counter() - self.tick)

    def iteration_is_done(self, model) -> None:
        """Take the time of an iteration, with the save that came before it; say it where ``print_freq`` wants it."""
        now = time.perf_counter()
        self.iterations.append(now - self.tick)
        self.seconds += now - self.tick
        self.tick = now
        iteration = self.now.iter
        if iteration == self.first + 2:
            # The first one compiles, or measures kernels.
            self.iterations.popleft()
            self.waits.popleft()
        self.record.iteration = iteration
        self.bar.update(iteration - self.bar.n)
        if iteration % self.opt["logger"]["print_freq"] == 0:
            self._say(iteration, self.now.epoch, model)

    def _say(self, iteration, epoch, model):
        if self.opt["rank"] != 0:
            return
        rates, values = model.get_current_learning_rate(), dict(model.get_current_log())
        seconds, waited = statistics.fmean(self.iterations), statistics.fmean(self.waits)
        left = datetime.timedelta(seconds=round(self.remaining(iteration)))
        line = f"[{self.opt['name'][:5]}..][epoch:{epoch:3d}, iter:{iteration:8,d}, lr:("
        line += (
            "".join(f"{rate:.3e}," for rate in rates) + f")] [eta: {left}, time (data): {seconds:.3f} ({waited:.3f})] "
        )
        get_root_logger().info(line + "".join(f"{name}: {value:.4e} " for name, value in values.items()))
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
        for name, value in values.items() if self.tb_logger else ():
            self.tb_logger.add_scalar(f"losses/{name}" if name.startswith("l_") else name, value, iteration)
        memory = peak_memory()
        self.record.write(
            "train",
            images=self.now.images,
            seconds=round(self.seconds, 3),
            epoch=epoch,
            values={"lr": rates[0], **values},
            iteration_seconds=seconds,
            data_seconds=waited,
            memory_bytes=memory and memory[0],
        )

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Time of a validation, which does not count as training."""
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

    def longest(self) -> float:
        """Seconds of the longest recent iteration."""
        return max(self.iterations, default=0.0)
