"""Networks in projects without a registry: the lines of docs/deployment.md."""

import textwrap

import pytest
import torch

from contrast_arch.registration import networks
from tests.compat.others import LIGHT, Kair, OmniSR
from tests.conftest import ROOT

SIZES = {**LIGHT, "dims": 12, "depths": [1], "num_heads": [2]}


def built(make, **arguments):
    torch.manual_seed(0)
    return make(**arguments).eval()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lines_of_kair(scale):
    """KAIR hands the sizes of ``netG`` and ``scale``."""
    lines = Kair.lines.format(name="contrastnope", network="ContrastNoPE")
    code = f"def define_G(net_type, opt_net):\n    if net_type == '':\n        pass\n{lines}    return netG\n"
    exec(code, found := {})
    network = built(found["define_G"], net_type="contrastnope", opt_net={"scale": scale, **SIZES})
    expected = built(networks()["ContrastNoPE"], upscale=scale, **SIZES)
    assert type(network) is type(expected)
    image = torch.rand(1, 3, 9, 7)
    assert torch.equal(network(image), expected(image))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_component_of_omni_sr(scale):
    """Omni-SR hands channels and width by position, and images in [-1, 1]."""
    exec(OmniSR.component.format(network="ContrastNoPE"), found := {})
    sizes = {key: value for key, value in SIZES.items() if key != "dims"}
    network = built(lambda: found["Contrast"](3, 3, 12, upsampling=scale, **sizes))
    expected = built(networks()["ContrastNoPE"], upscale=scale, **SIZES)
    assert list(network.state_dict()) == list(expected.state_dict())
    image = torch.rand(1, 3, 9, 7)
    torch.testing.assert_close((network(image * 2 - 1) + 1) / 2, expected(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("lines", [Kair.lines, OmniSR.component], ids=["KAIR", "Omni-SR"])
def test_the_page_shows_them(lines):
    lines = textwrap.dedent(lines.format(name="contrastnope", network="ContrastNoPE"))
    pages = [page.read_text() for page in (ROOT / "docs").glob("deployment*.md")]
    assert any(textwrap.indent(lines, "    ") in page for page in pages)
