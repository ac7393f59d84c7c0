import pytest
import torch

from contrast_arch.layers.windows import relative_position_index
from tests.conftest import load_reference


@pytest.mark.parametrize("network", ["Contrast", "HATLight"])
def test_index_is_that_of_published_checkpoints(network):
    _, state, _, _ = load_reference(network)
    assert torch.equal(relative_position_index(8), state["relative_position_index_SA"])
    # HAT's index into the (8 + 12 - 1)² rows goes below zero, which counts from the end.
    assert torch.equal(relative_position_index(8, 12), state["relative_position_index_OCA"] % 19**2)
    assert torch.equal(relative_position_index(8, 12, wrapped=False), state["relative_position_index_OCA"])
