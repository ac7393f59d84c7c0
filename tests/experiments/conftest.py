"""Fixtures of the tests of reports."""

import pytest

from contrast_arch.experiments import figures, page


@pytest.fixture(autouse=True)
def no_drawing(request, monkeypatch):
    """Drawing and plotly's script take most of the time; tests that take ``drawn`` have them."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(figures, "png", lambda chart: b"")
        monkeypatch.setattr(page, "get_plotlyjs", lambda: "")
