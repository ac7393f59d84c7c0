"""The images to prepare: where they lie, and the name that each one gets."""

import itertools
import locale
import os
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from contrast_arch.errors import InputError
from contrast_arch.files import resolved
from contrast_arch.prepare.images import SUFFIXES

# File systems take 255 bytes: room for what prepare adds (a number, _s001, x4.png, .tmp), and for the names of pictures
# that validation and tests save (NAME_EXPERIMENT.png).
LONGEST_NAME = 200
# The end of a name that a part of another image may have.
PART_SUFFIX = re.compile(r"_s\d{3,}$")


class Source(NamedTuple):
    """An image to prepare: its file, its path within its root, and the name (no suffix) that it gets."""

    path: Path
    relative: str
    name: str


def find_sources(roots: list[Path], output: Path, cut: bool) -> tuple[list[Source], list[str]]:
    """Find all images below the roots, in an order that does not depend on the machine, and notes on what is left out.

    Args:
        roots: folders with HR images, in subfolders or not; without links, as ``output``.
        output: the folder of the dataset.
        cut: images may be cut into sub-images, whose names must be free too.
    """
    if missing := [root for root in roots if not root.is_dir()]:
        raise InputError(f"{missing[0]}: no such folder; expected one with HR images")
    for one, other in itertools.combinations((*roots, output), 2):
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise InputError(f"{one} and {other}: expected roots and an output of which none lies in another")
    files, notes, entered = [], [], set()

    def note_unlisted(error):
        notes.append(f"{error.filename}: cannot be listed ({error.strerror}); left out")

    for root in roots:
        count = len(files)
        # Links are followed, and no folder is entered twice, so that loops of links end.
        for folder, folders, names in os.walk(root, onerror=note_unlisted, followlinks=True):
            place = resolved(folder)
            around = place != root and any(other.is_relative_to(place) for other in (output, *roots))
            if place in entered or around or place.is_relative_to(output):
                notes.append(f"{folder}: a link to {place}, entered already, or around a root or the output; left out")
                folders.clear()
                continue
            entered.add(place)
            # Hidden files and folders are the system's (.DS_Store, ._name.png), not photographs.
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
                # A broken link is reported when it is read; to open a pipe would wait for ever.
                if path.suffix.lower() in SUFFIXES and (os.path.isfile(path) or not os.path.exists(path)):
                    files.append((root, path))
                else:
                    notes.append(f"{path}: no image; left out")
        if len(files) == count:
            raise InputError(f"{root}: no image in it; expected {', '.join(SUFFIXES)}, in subfolders or not")
    return _named(files, cut), notes


def _named(files, cut):
    """Name images such that no two of them, nor parts of them (if they are cut), become one file."""
    stems = [_allowed(path.stem) for _, path in files]
    counts = Counter(map(_folded, stems))
    sources, taken, wholes = [], set(), set()
    for (root, path), name in zip(files, stems, strict=True):
        relative = path.relative_to(root)
        if counts[_folded(name)] > 1:
            name = _allowed("_".join((root.parent.name, root.name, *relative.parts[:-1], name)))
        for number in itertools.count(1):
            unique = name if number == 1 else f"{name}_{number}"
            key = _folded(unique)
            whole = PART_SUFFIX.sub("", key) if cut else key
            # The name itself, an image with parts of this name, parts that this image may have.
            if key not in taken and whole not in taken and key not in wholes:
                break
        taken.add(key)
        wholes.add(whole)
        sources.append(Source(path, relative.as_posix(), unique))
    return sources


def _allowed(name):
    """The name without what no file of the dataset may have in its name."""
    # BasicSR opens meta-info files in this encoding, and ends a name at a space.
    encoding = locale.getpreferredencoding(False)
    name = "".join("_" if not sign.encode(encoding, "ignore") or sign.isspace() else sign for sign in name)
    # Numbers stand at the end, mostly.
    name = os.fsencode(name)[-LONGEST_NAME:].decode(sys.getfilesystemencoding(), "ignore")
    # A dot in front would hide the file from BasicSR.
    return re.sub(r"^\.", "_", name)


def _folded(name):
    """The same text for names that are one name to file systems that ignore case and how an accent is stored."""
    return unicodedata.normalize("NFC", name.casefold())
