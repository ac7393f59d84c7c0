"""The images to prepare: where they lie, and the name that each one gets."""

import locale
import os
import re
import sys
import unicodedata
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from contrast_arch.errors import InputError
from contrast_arch.files import resolved
from contrast_arch.prepare.images import SUFFIXES, broken_link
from contrast_arch.prepare.plan import PART_SUFFIX

# File systems take 255 bytes: room for what prepare adds (a number, _s001, x4.png, .tmp), and for the names of pictures
# that validation and tests save (NAME_EXPERIMENT.png).
LONGEST_NAME = 200


@dataclass(frozen=True)
class Source:
    """An image to prepare: its file, its path within its root, and the name (no suffix) that it gets."""

    path: Path
    relative: str
    name: str
    notes: tuple[str, ...] = ()


def find_sources(roots: list[Path], output: Path, cut: bool) -> tuple[list[Source], list[str]]:
    """Find all images below the roots, each with a name of its own, in an order that does not depend on the machine.

    Args:
        roots: folders with HR images, in subfolders or not.
        output: the folder of the dataset.
        cut: images may be cut into sub-images, whose names must be free too.

    Returns:
        The images, and notes on files that are no images and on folders that were not entered.
    """
    roots = [resolved(root) for root in roots]
    for i, root in enumerate(roots):
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; expected one with HR images")
        if output.is_relative_to(root) or root.is_relative_to(output):
            raise InputError(f"{output}: the output must lie outside of {root}, whose images would be mixed with it")
        for other in roots[:i]:
            if root.is_relative_to(other) or other.is_relative_to(root):
                raise InputError(f"{root}: its images are also those of {other}; name one of the two")
    found, notes = _walk(roots, output)
    files = []
    for root in roots:
        images = []
        for path in sorted(found[root]):
            # Broken links are counted with the images that cannot be read; to open a pipe would wait for ever.
            if path.suffix.lower() in SUFFIXES and (os.path.isfile(path) or not os.path.exists(path)):
                images.append(path)
            else:
                notes.append(f"{path}: {broken_link(path) or 'no image'}, left out")
        if not images:
            raise InputError(f"{root}: no image in it; expected {', '.join(SUFFIXES)}, in subfolders or not")
        files += [(root, path) for path in images]
    return _named(files, cut), notes


def _walk(roots, output):
    """Files below each root, and notes on folders that are not entered.

    Links to folders are followed after all other folders, so that an image is found where it lies. No folder is entered
    twice, so that loops of links end.
    """
    files, notes, entered = {root: [] for root in roots}, [], {}
    folders, links = deque((root, root) for root in roots), deque()
    while folders or links:
        linked = not folders
        root, folder = (links if linked else folders).popleft()
        target = folder.resolve()
        reason = None
        if target in entered:
            reason = f"its images are those of {entered[target]}"
        elif linked and any(root.is_relative_to(target) for root in roots):
            reason = f"a link to {target}, which contains one of the roots"
        elif linked and (output.is_relative_to(target) or target.is_relative_to(output)):
            reason = f"a link to {target}, which overlaps with the output"
        else:
            entered[target] = folder
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                entries, reason = [], f"cannot be listed ({error.strerror})"
        if reason:
            notes.append(f"{folder}: {reason}; left out")
            continue
        for entry in entries:
            # Hidden files and folders are the system's (.DS_Store, ._name.png), not photographs.
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if os.path.isdir(path):
                (links if entry.is_symlink() else folders).append((root, path))
            else:
                files[root].append(path)
    return files, notes


def _named(files, cut):
    stems = [_allowed(path.stem) for _, path in files]
    counts = Counter(map(_folded, stems))
    wanted = [
        stem
        if counts[_folded(stem)] == 1
        else _allowed("_".join((root.parent.name, root.name, *path.relative_to(root).parts[:-1], stem)))
        for (root, path), stem in zip(files, stems, strict=True)
    ]
    sources = []
    for (root, path), stem, name, (unique, rival) in zip(files, stems, wanted, _unique(wanted, cut), strict=True):
        note = None
        if counts[_folded(stem)] > 1:
            note = f"{counts[_folded(stem)]} images are named {stem}: stored as {unique}"
        elif rival is not None:
            note = f"as {name} it could share files with {files[rival][1]}: stored as {unique}"
        elif stem != path.stem:
            note = f"stored as {unique}, since {_reason(path.stem)}"
        sources.append(Source(path, path.relative_to(root).as_posix(), unique, (note,) if note else ()))
    return sources


def _allowed(name):
    """The name without what no file of the dataset may have in its name."""
    # BasicSR opens meta-info files in this encoding.
    encoding = locale.getpreferredencoding(False)
    name = "".join(
        character if character.encode(encoding, "ignore") and not character.isspace() else "_" for character in name
    )
    # Numbers stand at the end, mostly.
    name = os.fsencode(name)[-LONGEST_NAME:].decode(sys.getfilesystemencoding(), "ignore")
    # A dot in front would hide the file from BasicSR.
    return re.sub(r"^\.", "_", name)


def _reason(name):
    if re.search(r"\s", name):
        return "meta-info files end a name at a space"
    if len(os.fsencode(name)) > LONGEST_NAME:
        return f"names have at most {LONGEST_NAME} bytes here"
    return f"meta-info files hold names in {locale.getpreferredencoding(False)} only"


def _folded(name):
    """The same text for names that are one name to file systems that ignore case and how an accent is stored."""
    return unicodedata.normalize("NFC", name.casefold())


def _unique(wanted: Iterable[str], cut: bool) -> Iterator[tuple[str, int | None]]:
    """Give each image a name such that no two images, nor parts of them (if they are cut), become one file.

    Returns:
        For each image its name, and the position of the image that has the wanted one, None where it is free.
    """
    names, wholes = {}, {}
    for position, name in enumerate(wanted):
        unique, count, rival = name, 1, None
        while True:
            key = _folded(unique)
            whole = PART_SUFFIX.sub("", key) if cut else key
            # The name itself, an image with parts of this name, parts that this image may have.
            other = next((place[k] for place, k in ((names, key), (names, whole), (wholes, key)) if k in place), None)
            if other is None:
                break
            count += 1
            unique, rival = f"{name}_{count}", other if rival is None else rival
        names[key] = wholes[whole] = position
        yield unique, rival


def lmdb_keys(sources: list[Source], cut: bool) -> dict[str, str]:
    """Name of each image (of ASCII characters) -> its key in LMDB files, which BasicSR ends at the first dot."""
    # Names without dots are their own keys.
    names = sorted((source.name for source in sources), key=lambda name: "." in name)
    keys = _unique((name.replace(".", "_") for name in names), cut)
    return {name: key for name, (key, _) in zip(names, keys, strict=True)}
