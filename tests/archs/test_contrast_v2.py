"""ContrastV2, the paper's network: its files, and the coordinates of its position bias."""

import math
import runpy

import pytest
import torch

from contrast_arch import ContrastV2
from contrast_arch.layers.attention import COORDS_TABLE, PositionBias
from contrast_arch.layers.windows import relative_coords_table, relative_position_index
from tests.archs.test_networks import build
from tests.conftest import ROOT, load_reference


@pytest.mark.parametrize("name", ["ContrastV2", "ContrastV2_w16"])
def test_names_are_those_of_the_published_files(name):
    """And their buffers, of which one is of each OCAB, may be absent."""
    config, state, _, _ = load_reference(name)
    net = ContrastV2(**config)
    buffers = {key for key in state if key.endswith(COORDS_TABLE) or "relative_position_index" in key}
    assert len(buffers) == (3 if name == "ContrastV2" else 2)
    assert state.keys() - buffers == net.state_dict().keys()
    net.load_state_dict(state)
    net.load_state_dict({key: value for key, value in state.items() if key not in buffers})


@pytest.mark.parametrize("name", ["ContrastV2", "ContrastV2_w16"])
def test_coordinates_are_the_published_ones(name):
    config, state, _, _ = load_reference(name)
    net = ContrastV2(**config)
    for i, layer in enumerate(net.layers):
        recorded = state[f"layers.{i}.residual_group.overlap_attn.{COORDS_TABLE}"]
        torch.testing.assert_close(layer.residual_group.overlap_attn.relative_coords_table, recorded, rtol=1e-6, atol=0)


def offsets(window, key):
    """(window², key²) differences key minus query in pixels, by hand: (y, x)."""
    margin = (key - window) // 2
    return [
        [(ky - margin - qy, kx - margin - qx) for ky in range(key) for kx in range(key)]
        for qy in range(window)
        for qx in range(window)
    ]


def coordinate(offset, largest):
    t = offset / largest * 8
    return math.copysign(math.log2(abs(t) + 1) / 3, t) if t else 0.0


@pytest.mark.parametrize("window, key", [(4, 6), (8, 12), (6, 12), (4, 4)])
def test_the_aligned_index_reads_the_coordinates_of_the_pair(window, key):
    """The published one, HAT's, does so for no pair."""
    side = window + key - 1
    table = relative_coords_table(side).flatten(0, 2)
    largest = (side - 1) / 2
    middle = (key - window) // 2
    # Keys reach as far before the window as behind it.
    assert max(y for row in offsets(window, key) for y, _ in row) == largest == middle + window - 1
    expected = torch.tensor(
        [[[coordinate(at, largest) for at in pair] for pair in row] for row in offsets(window, key)]
    )
    torch.testing.assert_close(table[relative_position_index(window, key, aligned=True)], expected)
    published = table[relative_position_index(window, key)]
    right = (published - expected).abs().amax(-1) < 1e-6
    assert not right.any()


def test_the_published_index_wraps_around():
    """Window 8, keys 12: it reads 10 pixels up and left of the pair; beyond the table's border, at the other side."""
    side = 8 + 12 - 1
    index = relative_position_index(8, 12) % side**2
    read = torch.stack([index // side, index % side], -1) - side // 2
    shifts = (torch.tensor(offsets(8, 12)) - read).flatten(0, 1).unique(dim=0)
    assert shifts.tolist() == [[-9, 10], [-8, 10 - side], [10, 10], [11, 10 - side]]


def test_the_picture_of_the_documentation(tmp_path):
    """Its query is at no distance from itself, and 8 rows and 9 columns away by the published index."""
    page = runpy.run_path(str(ROOT / "docs" / "position_index.py"))
    aligned, published = (page["distances"](which) for which in (True, False))
    assert aligned[6, 6] == 0 and published[6, 6] == pytest.approx(math.hypot(8, 9))
    assert aligned[0, 0] == pytest.approx(math.hypot(6, 6)) and published[0, 0] == pytest.approx(math.hypot(2, 3))
    page["draw"](tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("aligned", [True, False])
def test_bias_of_a_pair(aligned):
    """The small network applied to the coordinates that the index reads, for every head."""
    attention = build("ContrastV2", aligned_bias=aligned).layers[0].residual_group.overlap_attn
    index = relative_position_index(4, 6, aligned)
    with torch.no_grad():
        bias = attention.bias().gathered()
        assert bias.shape == (2, 16, 36)
        for query, key in ((0, 0), (5, 7), (15, 35), (3, 20)):
            of_pair = attention.cpb_mlp(attention.relative_coords_table.flatten(0, 2)[index[query, key]])
            torch.testing.assert_close(bias[:, query, key], of_pair)
    assert len(bias.unique()) > 100


def test_a_computed_bias_is_that_of_float32_under_autocast():
    attention = PositionBias(12, 2, 4, 6, "computed")
    with torch.autocast("cpu", torch.bfloat16):
        table = attention.bias().table
    assert torch.equal(table, attention.bias().table) and table.dtype == torch.float32 and table.requires_grad


def test_no_norm_after_the_groups_and_none_of_its_weights():
    assert not [key for key in build("ContrastV2").state_dict() if key.startswith("norm.")]
    assert "norm.weight" in build("Contrast").state_dict()
