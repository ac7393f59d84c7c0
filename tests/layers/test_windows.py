import pytest
import torch

from contrast_arch.layers.windows import relative_position_index
from tests.conftest import load_reference


@pytest.mark.parametrize("network", ["Contrast", "HATLight"])
def test_index_is_that_of_published_checkpoints(network):
    _, state, _, _ = load_reference(network)
    assert torch.equal(relative_position_index(8), state["relative_position_index_SA"])
    assert torch.equal(relative_position_index(8, 12), state["relative_position_index_OCA"])
