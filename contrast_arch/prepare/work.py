"""Preparing one image: HR and LQ files that say what they were made from, each written at once or not at all."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from contrast_arch.files import replacing
from contrast_arch.prepare.images import Header, Unusable, bicubic_lq, crop_to_multiple, read_header, read_rgb
from contrast_arch.prepare.plan import Settings, file_of, parts
from contrast_arch.prepare.sources import Source

# The PNG text under which a file names its source, so that another start knows what it can keep.
MARK = "contrast_arch prepare"


@dataclass
class Outcome:
    """Result of one image.

    Attributes:
        entries: (name, height, width) of the HR files, none where the image was left out.
        made: whether anything was missing.
        notes: what was done to the image, or why it was left out.
    """

    source: Source
    entries: list[tuple[str, int, int]] = field(default_factory=list)
    made: bool = False
    notes: list[str] = field(default_factory=list)


def examine(source: Source, settings: Settings) -> tuple[Outcome, Header | None]:
    """Predict the files of an image from its header alone; return them and the header (None if it is left out)."""
    outcome = Outcome(source, notes=list(source.notes))
    try:
        header = read_header(source.path)
        height, width = (side - side % settings.multiple for side in (header.height, header.width))
        if min(height, width) < settings.smallest:
            size, least = f"{header.width}x{header.height}", f"{settings.smallest}x{settings.smallest}"
            raise Unusable(f"{size}, smaller than {least}")
    except Unusable as error:
        outcome.notes.append(f"{error}; left out")
        return outcome, None
    outcome.notes += header.notes
    outcome.entries = [(source.name + suffix, h, w) for suffix, _, _, h, w in parts(height, width, settings)]
    return outcome, header


def prepare_image(source: Source, settings: Settings, output: Path) -> Outcome:
    """Write what is missing of an image's HR and LQ files."""
    outcome, header = examine(source, settings)
    if header is None:
        return outcome
    state, scales = source.path.stat(), (1, *settings.scales)
    made_from = {"source": source.relative, "bytes": state.st_size, "time": state.st_mtime_ns}
    mark = json.dumps(made_from | settings.kept)
    if all(
        _is_there(file_of(output, name, scale), height // scale, width // scale, mark)
        for name, height, width in outcome.entries
        for scale in scales
    ):
        return outcome
    outcome.made = True
    try:
        pixels = read_rgb(source.path, header)
    except Unusable as error:
        outcome.notes.append(f"{error}; left out")
        outcome.entries = []
        return outcome
    hr = crop_to_multiple(pixels, settings.multiple)
    for scale in scales:
        image = hr if scale == 1 else bicubic_lq(crop_to_multiple(hr, scale), scale)
        for suffix, *place in parts(*hr.shape[:2], settings):
            top, left, height, width = (number // scale for number in place)
            _write(file_of(output, source.name + suffix, scale), image[top : top + height, left : left + width], mark)
    return outcome


def _is_there(path, height, width, mark):
    try:
        with Image.open(path) as image:
            return image.size == (width, height) and image.info.get(MARK) == mark
    except OSError:
        return False


def _write(path, pixels, mark):
    text = PngImagePlugin.PngInfo()
    text.add_text(MARK, mark)
    with replacing(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, "PNG", pnginfo=text, compress_level=3)
