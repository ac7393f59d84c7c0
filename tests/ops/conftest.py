import pytest


@pytest.fixture(autouse=True)
def _unwritten_is_nan(unwritten_is_nan):
    pass
