"""Receptive fields and attributions whose answer is known, and the command from end to end."""

import json
import re
from functools import partial

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import contrast_arch
from contrast_arch.cli import main
from contrast_arch.experiments import receptive_field
from contrast_arch.experiments.receptive_field import (
    attribution,
    blurred,
    crops_of,
    diffusion_index,
    edges,
    effective_field,
    held_area,
)
from tests.conftest import ROOT, TINY


def test_field_of_one_convolution_is_its_kernel():
    """Gradients count without their sign."""
    conv = torch.nn.Conv2d(3, 3, 3, padding=1)
    torch.nn.init.constant_(conv.weight, 0.5)
    conv.weight.data[:, :, 0] = -0.5
    field = effective_field(conv, torch.rand(2, 3, 9, 11))
    expected = torch.zeros(9, 11, dtype=torch.float64)
    expected[3:6, 4:7] = 1 / 9
    torch.testing.assert_close(field, expected)
    assert held_area(field) == 9


def test_field_of_the_identity_is_a_pixel():
    field = effective_field(lambda x: x.repeat_interleave(4, 2).repeat_interleave(4, 3), torch.rand(1, 3, 8, 8))
    assert field[4, 4] == 1 and held_area(field) == 1


def test_field_is_the_average_over_crops():
    """A network that looks to the left in dark images, and at the pixel itself in bright ones."""
    crops = torch.cat([torch.zeros(3, 1, 5, 5), torch.ones(1, 1, 5, 5)])
    field = effective_field(lambda x: x if x.mean() > 0.5 else x.roll(1, 3), crops)
    assert field[2, 1] == 0.75 and field[2, 2] == 0.25


def test_held_area():
    """24 of 25 equal pixels hold 96 %."""
    field = torch.zeros(11, 11)
    field[3:8, 3:8] = 1 / 25
    assert held_area(field) == 24


def test_diffusion_index():
    """The Gini coefficient of 1, 2, 3, 4 is 0.25."""
    assert diffusion_index(torch.tensor([[[4.0, -1.0], [3.0, 2.0]]])) == pytest.approx(75.0)
    one = torch.zeros(3, 10, 10)
    one[1, 4, 4] = -2.0
    assert diffusion_index(one) == pytest.approx(1.0)
    assert diffusion_index(-torch.ones(3, 10, 10)) == pytest.approx(100.0)


def test_edges_of_a_ramp():
    """3 a row and 4 a column are 5 a pixel."""
    ramp = (3 * torch.arange(20.0)[:, None] + 4 * torch.arange(30.0)).expand(1, 2, -1, -1)
    assert float(edges(ramp, 1, 2, window=7)) == pytest.approx(2 * 5 * 49)


def test_blur():
    image = torch.rand(1, 3, 12, 12)
    assert blurred(image, 0.0) is image
    torch.testing.assert_close(blurred(torch.full((1, 3, 12, 12), 0.3), 1.2), torch.full((1, 3, 12, 12), 0.3))
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    spread = blurred(point, 1.2)[0, 0]
    assert float(spread.sum()) == pytest.approx(1)
    assert float(spread[4, 5] / spread[4, 4]) == pytest.approx(float(torch.tensor(-0.5 / 1.44).exp()))


def test_attributions_add_up_to_the_change_of_the_detector():
    """From the blurred image to the image; nothing is attributed to pixels that the window does not see."""
    lq = torch.rand(1, 3, 24, 24)
    detector = partial(edges, top=8, left=8, window=6)
    attributed = attribution(torch.nn.Identity(), lq, detector, steps=40)
    change = float(detector(lq) - detector(blurred(lq, receptive_field.SIGMA)))
    assert change > 1 and float(attributed.sum()) == pytest.approx(change, rel=1e-2)
    inside = torch.zeros(24, 24, dtype=torch.bool)
    inside[8:15, 8:15] = True
    assert not attributed[:, ~inside].any() and attributed[:, 8:14, 8:14].all()


def test_crops_are_spread_over_the_image():
    image = torch.arange(10.0 * 6).view(1, 1, 10, 6)
    assert crops_of(image, 6)[:, 0, 0, 0].tolist() == [0, 12, 24]


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def test_command(image, tmp_path, monkeypatch, capsys):
    tiny = contrast_arch.Contrast(**{key: value for key, value in TINY.items() if key != "type"})
    monkeypatch.setattr(receptive_field, "load_pretrained", lambda source: tiny)
    monkeypatch.setattr(receptive_field, "attribution", partial(attribution, steps=2))
    monkeypatch.setattr(receptive_field, "CROPS", 2)
    monkeypatch.setattr(receptive_field, "SIDE", 16)
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **b: (figures.append(figure), save(figure, *a, **b)))
    arguments = ["--weights", "a/one.pth", "two", "--output", str(tmp_path / "out"), "--at", "9", "11"]
    assert main(["receptive-field", image, *arguments]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"receptive_field.json", "receptive_field.md", "receptive_field.png"}
    found = json.loads((tmp_path / "out" / "receptive_field.json").read_text())
    assert (found["image"], found["crops"], found["top_left"]) == ("image.png", 4, [3, 1])
    one, two = found["rows"]
    assert (one["weights"], two["weights"], one["network"], one["upscale"]) == ("a/one.pth", "two", "Contrast", 4)
    assert 9 < one["area"] <= 256 and 0 < one["diffusion_index"] < 100
    assert one["area"] == two["area"]
    text = (tmp_path / "out" / "receptive_field.md").read_text()
    assert text == receptive_field.tables(found) and text in capsys.readouterr().out
    assert matplotlib.image.imread(tmp_path / "out" / "receptive_field.png").std() > 0.1
    # The picture says what the table says.
    labels = [axis.get_xlabel() for axis in figures[0].axes]
    index = f"{one['diffusion_index']:.2f}"
    assert f"diffusion index {index}" in labels and f"| {index} |" in text
    assert f"{one['area']:,} pixels hold 95%" in labels


MISTAKES = {
    "no image": (["nowhere.png"], "nowhere.png: No such file or directory"),
    "no picture": ([__file__], "test_receptive_field.py: .*; expected an image file"),
    "place": (["{image}", "--at", "7", "11"], "image.png: expected 20x20 pixels around 7 11"),
    "weights": (["{image}", "--weights", "none.pth"], "none.pth"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake, image, tmp_path, capsys):
    arguments, message = MISTAKES[mistake]
    output = ["--output", str(tmp_path / "out")]
    given = [argument.format(image=image) for argument in arguments]
    weights = [] if "--weights" in given else ["--weights", "ContrastNoPE_ssm_ratio2_light_SRx4"]
    assert main(["receptive-field", *given, *weights, *output]) == 1
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "out").exists()


def test_the_committed_table_is_that_of_the_committed_figures():
    folder = ROOT / "docs" / "receptive_field"
    table = receptive_field.tables(json.loads((folder / "receptive_field.json").read_text()))
    assert table == (folder / "receptive_field.md").read_text()
    assert (folder / "receptive_field.png").stat().st_size <= 400 * 1024
