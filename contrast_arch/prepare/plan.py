"""The plan of prepare: settings, and the files that an image becomes."""

import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path

from contrast_arch.errors import InputError
from contrast_arch.parsing import parse_json

SETTINGS_FILE = "prepare.json"
# MATLAB's kernel reaches this many LQ pixels over the border, and mirrors no further than the image goes.
SMALLEST_LQ = 4
# The end of a name that a part of another image may have.
PART_SUFFIX = re.compile(r"_s\d{3,}$")


@dataclass(frozen=True)
class Settings:
    """Settings by which images are prepared.

    Attributes:
        scales: of the LQ images.
        multiple: HR is cropped to a multiple of it; 1 where HR is kept whole for validation.
        smallest: the least height and width of HR, pixels.
        sub_images: side of the parts that HR is cut into, pixels; 0 for whole images.
    """

    scales: tuple[int, ...]
    multiple: int
    smallest: int
    sub_images: int = 0

    @property
    def step(self) -> int:
        """Pixels from one part to the next: half of a part, or the next smaller multiple."""
        return max(self.multiple, self.sub_images // 2 // self.multiple * self.multiple) if self.sub_images else 0

    @property
    def kept(self) -> dict:
        """Settings that must be the same for all images of a folder."""
        return {"multiple": self.multiple, "sub_images": self.sub_images, "step": self.step}


def make_settings(scales, purpose: str, gt_size: int | None = None, sub_images: int | None = None) -> Settings:
    """Check what the user asked for; numbers that do not fit together are refused."""
    scales = tuple(sorted(set(scales)))
    common, smallest = math.lcm(*scales), SMALLEST_LQ * max(scales)
    if purpose == "validation":
        if gt_size is not None or sub_images is not None:
            raise InputError("--for validation keeps images whole; leave --gt-size and --sub-images out")
        return Settings(scales, 1, smallest)
    gt_size = 64 * max(scales) if gt_size is None else gt_size
    if gt_size < smallest:
        raise InputError(f"--gt-size {gt_size}: expected at least {smallest}, {SMALLEST_LQ} LQ pixels")
    if sub_images is not None and (sub_images < gt_size or sub_images % common):
        raise InputError(
            f"--sub-images {sub_images}: expected a multiple of {common}, so that HR and LQ are cut alike, and at "
            f"least --gt-size {gt_size}"
        )
    return Settings(scales, common, gt_size, sub_images or 0)


def parts(height: int, width: int, settings: Settings) -> list[tuple[str, int, int, int, int]]:
    """(suffix of the name, top, left, height, width) of the files that an HR image of this size becomes."""
    side = settings.sub_images
    if not side or (height <= side and width <= side):
        return [("", 0, 0, height, width)]
    # The last part of an axis is aligned to the border, so that no pixel is lost.
    tops, lefts = (
        sorted({*range(0, max(0, length - side) + 1, settings.step), max(0, length - side)})
        for length in (height, width)
    )
    return [
        (f"_s{i:03d}", top, left, min(side, height), min(side, width))
        for i, (top, left) in enumerate(itertools.product(tops, lefts), start=1)
    ]


def file_of(output: Path, name: str, scale: int = 1) -> Path:
    """The HR file of a name (scale 1), or the LQ file of a scale."""
    if scale == 1:
        return output / "HR" / f"{name}.png"
    return output / "LR_bicubic" / f"X{scale}" / f"{name}x{scale}.png"


def check_output(output: Path, roots: list[Path], settings: Settings) -> None:
    """Refuse an output folder that was made by other settings, or from roots that are not named again."""
    file = output / SETTINGS_FILE
    if not file.exists():
        for folder in (output / "HR", output / "LR_bicubic"):
            if folder.exists():
                raise InputError(f"{folder} exists already and was not made by this command; name another --output")
        return
    try:
        earlier = parse_json(file.read_text())
        kept, earlier_roots = dict(earlier["settings"]), [*map(str, earlier["roots"])]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error}); name another --output") from error
    if kept != settings.kept:
        before, now = (", ".join(f"{key} {value}" for key, value in found.items()) for found in (kept, settings.kept))
        raise InputError(
            f"{output} was prepared with {before}, now asked for is {now} (multiple: the least common one of the "
            "scales, 1 for validation); name another --output"
        )
    lost = set(earlier_roots).difference(map(str, roots))
    if lost:
        raise InputError(
            f"{output} was also prepared from {', '.join(sorted(lost))}; name it again, or another --output"
        )
