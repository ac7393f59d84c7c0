import errno

from contrast_arch.training.record import LenientWriter


class Writer:
    def __init__(self):
        self.written, self.full = [], False

    def add_scalar(self, name, value, step):
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.written.append((name, value, step))

    def flush(self):
        self.add_scalar("flushed", 0, 0)

    def close(self):
        self.add_scalar("closed", 0, 0)

    def get_logdir(self):
        return "folder"


def test_a_full_disk_ends_the_events_and_nothing_else(log):
    inner = Writer()
    writer = LenientWriter(inner)
    writer.add_scalar("losses/l_pix", 0.5, 1)
    writer.flush()
    assert writer.get_logdir() == "folder"
    inner.full = True
    writer.add_scalar("losses/l_pix", 0.4, 2)
    writer.add_scalar("losses/l_pix", 0.4, 3)
    writer.close()
    assert inner.written == [("losses/l_pix", 0.5, 1), ("flushed", 0, 0)]
    assert log == ["TensorBoard's events end here ([Errno 28] No space left on device); the log and the training go on"]
