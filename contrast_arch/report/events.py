"""TensorBoard's event files, by TensorBoard's own reader."""

from pathlib import Path
from typing import NamedTuple


class Events(NamedTuple):
    """What one event file holds.

    Attributes:
        path: of the file.
        values: tag (``losses/l_pix``) -> iteration -> value.
        damage: what is wrong with the file; None where nothing is.
    """

    path: Path
    values: dict[str, dict[int, float]]
    damage: str | None


def available() -> bool:
    """Whether TensorBoard can be imported."""
    try:
        import tensorboard.backend.event_processing.event_file_loader  # noqa: F401
    except ImportError:
        return False
    return True


def read_events(path: Path) -> Events:
    """Read the scalars of an event file, up to its end or to the first record that is not whole.

    Raises:
        ImportError: TensorBoard is not installed.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    values, read = {}, 0
    try:
        size = path.stat().st_size
        for record in RawEventFileLoader(str(path)).Load():
            # A record lies between 12 bytes (its length and a checksum) and 4 (another checksum).
            read += len(record) + 16
            event = Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    values.setdefault(value.tag, {})[event.step] = value.simple_value
    except OSError as error:
        return Events(path, values, f"cannot be read: {error.strerror}")
    # The loader says nothing when it stops at a broken record.
    damage = f"broken or cut off at byte {read:,} of {size:,}: what follows is not read" if read < size else None
    return Events(path, values, damage)
