"""What tests of reports share."""

import pytest

from contrast_arch.report import figures


@pytest.fixture
def no_drawing(monkeypatch):
    """Drawing takes most of the time, and not every test needs it."""
    monkeypatch.setattr(figures, "svg", lambda chart, narrow: "<svg></svg>")
    monkeypatch.setattr(figures, "png", lambda chart: b"")
