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


@dataclass(frozen=True)
class Settings:
    """Settings by which images are prepared.

    Attributes:
        scales: of the LQ images.
        multiple: HR is cropped to a multiple of it; 1 where HR is kept whole for validation.
        smallest: the least height and width of HR, pixels.
        sub_images: side of the parts that HR is cut into, pixels; 0 for whole images.
        step: from one part to the next, pixels.
    """

    scales: tuple[int, ...]
    multiple: int
    smallest: int
    sub_images: int
    step: int

    @property
    def kept(self) -> dict:
        """Settings that must be the same for all images of a folder."""
        return {"multiple": self.multiple, "sub_images": self.sub_images, "step": self.step}


def make_settings(scales, purpose: str, gt_size: int | None, sub_images: int | None, step: int | None) -> Settings:
    """Check what the user asked for; numbers that do not fit together are refused."""
    scales = tuple(sorted(set(scales)))
    common = math.lcm(*scales)
    if purpose == "validation":
        for name, value in (("--sub-images", sub_images), ("--gt-size", gt_size)):
            if value is not None:
                raise InputError(f"{name} {value}: images for validation are kept whole; leave it out")
        return Settings(scales, 1, SMALLEST_LQ * max(scales), 0, 0)
    gt_size = 64 * max(scales) if gt_size is None else gt_size
    if gt_size < SMALLEST_LQ * max(scales):
        raise InputError(f"--gt-size {gt_size}: expected at least {SMALLEST_LQ * max(scales)}, {SMALLEST_LQ} LQ pixels")
    if sub_images is None:
        if step is not None:
            raise InputError(f"--step {step}: it says how far sub-images are apart; give --sub-images too")
        return Settings(scales, common, gt_size, 0, 0)
    step = sub_images // 2 // common * common if step is None else step
    for name, value in (("--sub-images", sub_images), ("--step", step)):
        if value < 1 or value % common:
            raise InputError(f"{name} {value}: expected a multiple of {common}, so that HR and LQ are cut alike")
    if sub_images < gt_size:
        raise InputError(f"--sub-images {sub_images}: smaller than the patches cut from them, --gt-size {gt_size}")
    if step > sub_images:
        raise InputError(f"--step {step}: larger than --sub-images {sub_images}, so that pixels between are lost")
    return Settings(scales, common, gt_size, sub_images, step)


# A name that a part of another image may have.
PART_SUFFIX = re.compile(r"_s\d{3,}$")


def parts(height: int, width: int, settings: Settings) -> list[tuple[str, int, int, int, int]]:
    """(suffix of the name, top, left, height, width) of the files that an HR image of this size becomes."""
    side = settings.sub_images
    if not side or (height <= side and width <= side):
        return [("", 0, 0, height, width)]
    corners = itertools.product(_starts(height, settings), _starts(width, settings))
    return [
        (f"_s{i:03d}", top, left, min(side, height), min(side, width)) for i, (top, left) in enumerate(corners, start=1)
    ]


def _starts(length, settings):
    last = max(0, length - settings.sub_images)
    # The last part is aligned to the border, so that no pixel is lost.
    return sorted({*range(0, last + 1, settings.step), last})


def file_of(output: Path, name: str, scale: int = 1) -> Path:
    """The HR file of a name (scale 1), or the LQ file of a scale."""
    if scale == 1:
        return output / "HR" / f"{name}.png"
    return output / "LR_bicubic" / f"X{scale}" / f"{name}x{scale}.png"


def check_output(output: Path, roots: list[Path], settings: Settings) -> None:
    """Refuse an output folder that was made by other settings, or from roots that are not named again."""
    file = output / SETTINGS_FILE
    if not file.exists():
        ours = [folder for folder in ("HR", "LR_bicubic") if (output / folder).exists()]
        if ours:
            raise InputError(
                f"{output / ours[0]} exists already and was not made by this command; name another --output"
            )
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
    lost = set(earlier_roots).difference(str(root.resolve()) for root in roots)
    if lost:
        raise InputError(
            f"{output} was also prepared from {', '.join(sorted(lost))}; name it again, or another --output"
        )
