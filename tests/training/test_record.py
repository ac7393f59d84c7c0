import errno
import json

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


def test_a_torn_line_is_cut_off(tmp_path):
    """Of a process that was killed while it wrote; the lines before it stay, and each new one is there at once."""
    path = tmp_path / "metrics.jsonl"
    record = Record(path)
    record.write("train", values={"l_pix": 0.5})
    before = path.read_text()
    path.write_text(before + '{"kind": "tra')
    again = Record(path)
    again.iteration = 4
    again.write("problem", message="x")
    lines = path.read_text().splitlines(keepends=True)
    assert lines[0] == before and json.loads(lines[1])["message"] == "x" and len(lines) == 2
    assert json.loads(lines[1])["iteration"] == 4
    Record(None).write("train")
    again.close()
    again.write("problem", message="y")
    assert path.read_text() == "".join(lines)


def test_a_full_disk_ends_the_record_and_nothing_else(tmp_path, log):
    (tmp_path / "metrics.jsonl").mkdir()
    record = Record(tmp_path / "metrics.jsonl")
    record.write("train")
    (line,) = log
    assert line.startswith("The lines of metrics.jsonl end here ([Errno 21] Is a directory")
