import errno
import json
from pathlib import Path

from contrast_arch.models.checkpoints import TrainState
from contrast_arch.training.record import Lenient, Record


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
    writer = Lenient(inner, "TensorBoard's events")
    writer.add_scalar("losses/l_pix", 0.5, 1)
    writer.flush()
    assert writer.get_logdir() == "folder"
    inner.full = True
    writer.add_scalar("losses/l_pix", 0.4, 2)
    writer.add_scalar("losses/l_pix", 0.4, 3)
    writer.close()
    assert inner.written == [("losses/l_pix", 0.5, 1), ("flushed", 0, 0)]
    assert log == ["TensorBoard's events end here ([Errno 28] No space left on device); the log and the training go on"]


def record(path):
    logger = {"print_freq": 1, "use_tb_logger": False}
    return Record(path, {"name": "tiny", "train": {"total_iter": 8}, "logger": logger}, TrainState(4, 0, {}))


def test_a_torn_line_is_cut_off(tmp_path):
    """Of a process that was killed while it wrote; the lines before it stay, and each new one is there at once."""
    path = tmp_path / "metrics.jsonl"
    record(path).write("train", values={"l_pix": 0.5})
    before = path.read_text()
    path.write_text(before + '{"kind": "tra')
    again = record(path)
    again.write("problem", message="x")
    lines = path.read_text().splitlines(keepends=True)
    assert lines[0] == before and json.loads(lines[1])["message"] == "x" and len(lines) == 2
    assert json.loads(lines[1])["iteration"] == 4
    record(None).write("train")
    again.close()
    again.write("problem", message="y")
    assert path.read_text() == "".join(lines)


def test_a_full_disk_ends_the_record_and_nothing_else(tmp_path, log):
    found = record(tmp_path / "metrics.jsonl")
    found._file._writer = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 (it takes no byte)
    for _ in range(2):
        found.write("train")
    (line,) = log
    assert line.startswith("The lines of metrics.jsonl end here ([Errno 28] No space left")
