"""TensorBoard's events, which are no reason to end a training run."""

from basicsr.utils import get_root_logger


class LenientWriter:
    """A writer of TensorBoard whose disk may be full: what cannot be written is left out, and the log says so once.

    TensorBoard writes in a thread of its own, which ends with the first error; every call after it raises that error.

    Args:
        writer: what takes ``add_scalar``, ``flush`` and ``close``.
    """

    def __init__(self, writer):
        self.writer = writer
        self.failed = False

    def __getattr__(self, name):
        return getattr(self.writer, name)

    def add_scalar(self, *args, **kwargs) -> None:
        self._tried(self.writer.add_scalar, *args, **kwargs)

    def flush(self) -> None:
        self._tried(self.writer.flush)

    def close(self) -> None:
        self._tried(self.writer.close)

    def _tried(self, call, *args, **kwargs):
        if self.failed:
            return
        try:
            call(*args, **kwargs)
        except OSError as error:
            self.failed = True
            get_root_logger().warning(f"TensorBoard's events end here ({error}); the log and the training go on")
