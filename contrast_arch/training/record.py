"""Records of a run, which are no reason to end it: metrics.jsonl and TensorBoard's events."""

import json
import logging
import time
from pathlib import Path

from basicsr.utils import get_root_logger


class _Lenient:
    """Something written to a disk that may be full: after the first error nothing more is written, and the log says so.

    Args:
        what: name for the log.
    """

    def __init__(self, what: str):
        self.what, self.failed = what, False

    def _try(self, call, *args, **kwargs):
        if self.failed:
            return
        try:
            call(*args, **kwargs)
        except OSError as error:
            self.failed = True
            get_root_logger().warning(f"{self.what} end here ({error}); the log and the training go on")


class LenientWriter(_Lenient):
    """TensorBoard's writer. It writes in a thread of its own, and every call after its first error raises that error.

    Args:
        writer: has ``add_scalar``, ``flush`` and ``close``.
    """

    def __init__(self, writer):
        super().__init__("TensorBoard's events")
        self.writer = writer

    def __getattr__(self, name):
        return getattr(self.writer, name)

    def add_scalar(self, *args, **kwargs) -> None:
        self._try(self.writer.add_scalar, *args, **kwargs)

    def flush(self) -> None:
        self._try(self.writer.flush)

    def close(self) -> None:
        self._try(self.writer.close)


class Record(_Lenient):
    """``metrics.jsonl`` of an experiment: a JSON object a line, each on its way to the disk when it is written.

    Every line has ``kind`` (run, train, validation, checkpoint or problem), ``time`` (Unix seconds) and ``iteration``.
    A line that a kill has torn is cut off when the file is opened. Lines after the iteration from which a run goes on
    stay; the last value of an iteration counts. NaN is written as Python writes it.

    Args:
        path: of the file, which may exist; None writes nothing.
        iteration: the last one that was trained.
    """

    def __init__(self, path: Path | None, iteration: int = 0):
        super().__init__("The lines of metrics.jsonl")
        self.iteration, self.file = iteration, None
        if path is not None:
            self._try(self._open, path)

    def _open(self, path):
        self.file = open(path, "ab+")  # noqa: SIM115
        self.file.seek(0)
        whole = self.file.read().rfind(b"\n") + 1
        self.file.truncate(whole)

    def write(self, kind: str, **fields) -> None:
        """Append a line."""
        if self.file is None:
            return
        line = {"kind": kind, "time": round(time.time(), 3), "iteration": self.iteration, **fields}
        self._try(self._append, f"{json.dumps(line)}\n".encode())

    def _append(self, line):
        self.file.write(line)
        self.file.flush()

    def close(self) -> None:
        """Close the file; what is written later, as by a handler that tqdm has put back into the log, is left out."""
        if self.file is not None:
            self._try(self.file.close)
            self.file = None


class ProblemHandler(logging.Handler):
    """Handler of a log that puts warnings and errors into the record too."""

    def __init__(self, record: Record):
        super().__init__(logging.WARNING)
        self.record = record

    def emit(self, record):
        self.record.write("problem", message=record.getMessage())
