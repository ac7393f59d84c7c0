import pytest

from tests.known_failures import works_unless_known


def test_the_list_is_checked_both_ways():
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"), works_unless_known("optimizer", "Muon"):
        pass
    with pytest.raises(KeyError), works_unless_known("optimizer", "Adam"):
        raise KeyError
