"""Fixtures of the tests of reports."""

from tests.experiments.reports import no_drawing  # noqa: F401
