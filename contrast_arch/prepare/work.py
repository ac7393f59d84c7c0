"""Preparing one image: HR and LQ files that say what they were made from, each written at once or not at all."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from contrast_arch.files import replacing
from contrast_arch.prepare.images import Unusable, bicubic_lq, crop_to_multiple, read_header, read_rgb
from contrast_arch.prepare.plan import Settings, hr_path, lq_path, parts
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


def examine(source: Source, settings: Settings) -> tuple[Outcome, object]:
    """Predict the files of an image from its header alone; return them and the header (None if it is left out)."""
    outcome = Outcome(source, notes=list(source.notes))
    try:
        header = read_header(source.path)
    except Unusable as error:
        outcome.notes.append(f"{error}; left out")
        return outcome, None
    height, width = (side - side % settings.multiple for side in (header.height, header.width))
    if min(height, width) < settings.smallest:
        outcome.notes.append(
            f"{header.width}x{header.height}, smaller than {settings.smallest}x{settings.smallest}; left out"
        )
        return outcome, None
    outcome.notes += header.notes
    outcome.entries = [(source.name + suffix, h, w) for suffix, _, _, h, w in parts(height, width, settings)]
    return outcome, header


def prepare_image(source: Source, settings: Settings, output: Path) -> Outcome:
    """Write what is missing of an image's HR and LQ files."""
    outcome, header = examine(source, settings)
    if header is None:
        return outcome
    mark = _mark(source, settings)
    if all(_is_there(path, *size, mark) for path, size in _files(outcome.entries, settings, output)):
        return outcome
    outcome.made = True
    try:
        pixels = read_rgb(source.path, header)
    except Unusable as error:
        outcome.notes.append(f"{error}; left out")
        outcome.entries = []
        return outcome
    hr = crop_to_multiple(pixels, settings.multiple)
    places = parts(*hr.shape[:2], settings)
    for suffix, top, left, height, width in places:
        part = hr[top : top + height, left : left + width]
        _write(hr_path(output, source.name + suffix), part, mark)
    for scale in settings.scales:
        lq = bicubic_lq(crop_to_multiple(hr, scale), scale)
        for suffix, *place in places:
            top, left, height, width = (number // scale for number in place)
            part = lq[top : top + height, left : left + width]
            _write(lq_path(output, source.name + suffix, scale), part, mark)
    return outcome


def _files(entries, settings, output):
    """(path, (height, width)) of every file that belongs to the entries."""
    for name, height, width in entries:
        yield hr_path(output, name), (height, width)
        for scale in settings.scales:
            yield lq_path(output, name, scale), (height // scale, width // scale)


def _mark(source, settings):
    state = source.path.stat()
    made_from = {"source": source.relative, "bytes": state.st_size, "time": state.st_mtime_ns}
    return json.dumps(made_from | settings.kept)


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
