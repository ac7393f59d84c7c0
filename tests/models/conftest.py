import logging

import pytest


@pytest.fixture
def log():
    """What goes into BasicSR's log."""
    lines, logger = [], logging.getLogger("basicsr")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)
