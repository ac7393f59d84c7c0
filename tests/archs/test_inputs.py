"""Images that a network takes or refuses, and calls of one network at the same time."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.archs.test_networks import build
from tests.conftest import NETWORKS


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int64, torch.bool], ids=str)
def test_images_of_integers_are_refused(dtype):
    """Not computed in float32, with the mean of [0, 1] subtracted from values up to 255."""
    expected = rf"input of dtype {dtype}: expected floats in \[0, 1\], such as x.float\(\) / 255 of uint8"
    with pytest.raises(TypeError, match=expected):
        build("Contrast")(torch.zeros(1, 3, 8, 8, dtype=dtype))


def test_the_range_of_an_image_is_not_looked_at():
    """Its minimum and maximum would wait for the GPU; the tools look (tests/inference)."""
    assert build("Contrast")(255 * torch.rand(1, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_one_network_in_several_threads(name):
    """At the same time, from the first call on: whichever comes first makes the bias that is kept."""
    lq = torch.rand(1, 3, 9, 7)

    def upscale(net):
        with torch.no_grad():
            return net(lq)

    expected = upscale(build(name))
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(sr, expected) for sr in pool.map(upscale, [build(name)] * 8))
