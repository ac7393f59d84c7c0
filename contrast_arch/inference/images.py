"""Picture files in and out: PNG, JPEG, WebP, BMP and TIFF, 8 and 16 bit, with their metadata.

Pillow decodes everything. It keeps 8 of the 16 bits of colour images; those are decoded twice, once for the upper and
once for the lower bytes. 16-bit PNG and all TIFF files are put together here.
"""

import io
import re
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from contrast_arch.errors import InputError, one_line

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
# JPEG includes MPO, a JPEG with previews after it, as phones write it.
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
# Pixels a side; the largest that the format's header can say.
LARGEST = {"JPEG": 65_535, "WEBP": 16_383}
# Formats without alpha.
OPAQUE = ("JPEG", "BMP")
# Between size and time: of 512x512 pixels in RGB 6, the usual one, takes twice as long.
ZLIB_LEVEL = 3
MAX_PIXELS = Image.MAX_IMAGE_PIXELS
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
# What Pillow opens, as one of CHANNELS; palettes and what has a transparent colour are treated apart.
MODES = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
MODES |= {"I;16": "L", "I;16B": "L", "I;16L": "L", "I;16N": "L"} | {kind: kind for kind in CHANNELS}
XMP_TAG, ICC_TAG = 700, 34675
# Of a TIFF file's tags those that say nothing about how its pixels are stored.
DESCRIPTIVE = {
    ExifTags.Base[name]
    for name in ("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "HostComputer", "Copyright")
} | {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo}
# Pillow applies orientations 2 to 8 as these; on an array: transposed first, then flipped along axes.
ORIENTATIONS = {
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}
XMP_ORIENTATION = re.compile(rb'\s*tiff:Orientation="\d"|<tiff:Orientation>\d</tiff:Orientation>')


@dataclass
class Picture:
    """An image with what its file says beside the pixels.

    Attributes:
        pixels: (H, W, C), uint8 or uint16, upright; C as :data:`CHANNELS` has it.
        kind: L, LA, RGB, RGBA or CMYK (0 is no ink).
        format: of the file: PNG, JPEG, WEBP, BMP or TIFF.
        exif: without orientation.
        icc, xmp: as they stand in the file, None without.
        dpi: horizontal and vertical, None without.
    """

    pixels: np.ndarray
    kind: str
    format: str
    exif: Image.Exif = field(default_factory=Image.Exif)
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


def open_image(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the header of an image file.

    Args:
        content: of the file.
        max_pixels: more are refused.

    Raises:
        InputError: another format, too many pixels, or more than one page or frame.
    """
    if not content:
        raise InputError("the file is empty")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise InputError("damaged, or not a PNG, JPEG, WebP, BMP or TIFF image that Pillow reads") from error
    except Exception as error:  # Pillow's plugins raise many kinds for broken headers
        raise InputError(one_line(error)) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(
            f"{width}x{height} are {width * height:,} pixels, expected at most {max_pixels:,}; if you trust the file, "
            f"--max-pixels {width * height}"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise InputError(f"{frames} pages or frames; expected one, save them as files of their own")
    if image.mode not in MODES and image.mode != "P":
        raise InputError(
            f"pixels of kind {image.mode}; expected 8 or 16 bit grey, palette, RGB or CMYK, with alpha or not"
        )
    return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after the EXIF orientation is applied."""
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    # Pillow has turned the size of TIFF files already.
    return image.size[::-1] if turned and image.format != "TIFF" else image.size


def read(content: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image file.

    Args:
        content, max_pixels: see :func:`open_image`.

    Raises:
        InputError: see :func:`open_image`; or the file is damaged.
    """
    image = open_image(content, max_pixels)
    # Pillow forgets it when it decodes, and a PNG's EXIF data may stand after the pixels.
    tile = next(iter(image.tile), None)
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation)
        pixels, kind = _deep(image, tile, content) or from_pillow(image)
        kept = {"icc": image.info.get("icc_profile"), "xmp": _xmp(image), "dpi": _dpi(image)}
        kept["exif"] = _kept_exif(exif, image.format == "TIFF")
    except InputError:
        raise
    except Exception as error:  # and its decoders for broken files
        raise InputError(one_line(error)) from error
    transposed, axes = ORIENTATIONS.get(orientation, (False, ()))
    if transposed and kept["dpi"]:
        kept["dpi"] = kept["dpi"][::-1]
    if image.format != "TIFF":  # which Pillow turns itself
        pixels = np.ascontiguousarray(np.flip(pixels.swapaxes(0, 1) if transposed else pixels, axes))
    format = "JPEG" if image.format == "MPO" else image.format
    return Picture(pixels, kind, format, **kept)


def from_pillow(image: Image.Image) -> tuple[np.ndarray, str]:
    """Pixels (H, W, C) of a Pillow image, uint8 or uint16, and their kind."""
    transparency = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16)[..., None]
        return _with_transparency(grey, transparency)
    if image.mode == "P":
        kind = "RGBA" if transparency is not None else "RGB"
        image = image.convert(kind)
        pixels = np.asarray(image)
        # A profile of three channels fits no grey image.
        if "icc_profile" not in image.info and (pixels[..., :1] == pixels[..., 1:3]).all():
            return pixels[..., [0, 3] if kind == "RGBA" else [0]], "LA" if kind == "RGBA" else "L"
        return pixels, kind
    if image.mode not in MODES:
        raise InputError(f"pixels of kind {image.mode}; expected one of {', '.join(MODES)}, P")
    kind = MODES[image.mode]
    if transparency is not None and kind in ("L", "RGB"):
        kind += "A"
    pixels = np.asarray(image if image.mode == kind else image.convert(kind))
    return pixels.reshape(*pixels.shape[:2], -1), kind


def to_pillow(pixels: np.ndarray, kind: str) -> Image.Image:
    """A Pillow image of pixels (H, W, C): of mode ``kind``, I;16 for 16-bit grey.

    Raises:
        InputError: Pillow has no images of 16 bits with colour or alpha.
    """
    pixels = pixels[..., 0] if kind == "L" else pixels
    height, width = pixels.shape[:2]
    if pixels.dtype == np.uint8:
        return Image.frombytes(kind, (width, height), np.ascontiguousarray(pixels).tobytes())
    if kind != "L":
        raise InputError(f"{kind} of 16 bits: Pillow has no such images; pass an array")
    return Image.frombytes("I;16", (width, height), np.ascontiguousarray(pixels.astype("<u2")).tobytes())


def encode(picture: Picture, format: str, quality: int = 95, software: str | None = None) -> bytes:
    """Make an image file; 8 bit where the format has no 16.

    Args:
        format: PNG, JPEG, WEBP, BMP or TIFF.
        quality: of JPEG and WebP, 1 to 100.
        software: what made the image, for PNG's text or EXIF's Software; None leaves what is there.

    Raises:
        InputError: the format cannot hold the picture: transparency in JPEG and BMP, or too many pixels a side.
    """
    pixels, kind, exif = picture.pixels, picture.kind, picture.exif
    check_size(pixels.shape[1], pixels.shape[0], format)
    icc = picture.icc
    check_alpha(picture, format)
    if format in OPAQUE and kind in ("LA", "RGBA"):
        pixels, kind = pixels[..., :-1], kind[:-1]
    if pixels.dtype == np.uint16 and format in ("JPEG", "WEBP", "BMP"):
        pixels = _to_8_bits(pixels)
    if kind == "CMYK" and format in ("PNG", "WEBP", "BMP"):
        pixels, kind, icc = _cmyk_to_srgb(pixels, icc), "RGB", None
    exif = _sized(exif, pixels.shape[1], pixels.shape[0])
    if software and format != "PNG":
        exif[ExifTags.Base.Software] = software
    dpi = {"dpi": picture.dpi} if picture.dpi else {}
    if format == "TIFF":
        return _tiff(pixels, kind, exif, icc, picture.xmp, picture.dpi)
    more = {"exif": exif.tobytes()} if len(exif) else {}
    more |= {"icc_profile": icc} if icc else {}
    if format == "PNG":
        more["pnginfo"] = PngImagePlugin.PngInfo()
        if software:
            more["pnginfo"].add_itxt("Software", software)
        if picture.xmp:
            more["pnginfo"].add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
        more |= dpi | {"compress_level": ZLIB_LEVEL}
    elif format == "BMP":
        more = dpi
    else:
        more |= {"quality": quality} | ({"xmp": picture.xmp} if picture.xmp else {})
        if format == "JPEG":
            more |= dpi | {"subsampling": 0}
        elif kind in ("L", "LA"):
            # WebP has no grey; three equal channels come back as they are.
            more |= {"icc_profile": None} if icc else {}
    if format == "PNG" and pixels.dtype == np.uint16:
        return _deep_png(pixels, kind, more)
    file = io.BytesIO()
    to_pillow(pixels, kind).save(file, format, **more)
    return file.getvalue()


def check_size(width: int, height: int, format: str) -> None:
    """Refuse sizes that a format cannot store.

    Raises:
        InputError: a side is too long.
    """
    most = LARGEST.get(format)
    if most and max(width, height) > most:
        raise InputError(f"{width}x{height}: {format} holds at most {most} pixels a side; take --format png")


def check_alpha(picture: Picture, format: str) -> None:
    """Refuse transparent pictures for a format that has no alpha.

    Raises:
        InputError: a pixel is not opaque.
    """
    if format in OPAQUE and picture.kind in ("LA", "RGBA"):
        alpha = picture.pixels[..., -1]
        if (alpha != np.iinfo(alpha.dtype).max).any():
            raise InputError(
                f"the image is transparent in places, which {format} cannot store; take --format png or webp"
            )


def _xmp(image):
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return XMP_ORIENTATION.sub(b"", xmp) if xmp else None


def _dpi(image):
    try:
        dpi = tuple(float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return dpi if len(dpi) == 2 and min(dpi) > 0 else None


def _kept_exif(exif, tiff):
    exif.pop(ExifTags.Base.Orientation, None)
    if tiff:
        kept = Image.Exif()
        for tag in DESCRIPTIVE & set(exif):
            kept[tag] = exif.get_ifd(tag) if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) else exif[tag]
        return kept
    return exif


def _sized(exif, width, height):
    """A copy of EXIF data in which the sizes it names are those of the image."""
    copy = Image.Exif()
    if len(exif):
        copy.load(exif.tobytes())
    sizes = {ExifTags.Base.ExifImageWidth: width, ExifTags.Base.ExifImageHeight: height}
    details = copy.get_ifd(ExifTags.IFD.Exif)
    details.update({tag: value for tag, value in sizes.items() if tag in details})
    return copy


def _deep(image, tile, content):
    """Pixels of 16 bits and their kind; None for an image of 8 bits, or of grey, which Pillow reads whole."""
    rawmode = str(tile.args if isinstance(tile.args, str) or not tile.args else tile.args[0]) if tile else ""
    if ";16" not in rawmode:
        bits = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) if image.format == "TIFF" else 8
        if bits > 8:
            raise InputError(
                f"a TIFF of {bits} bits stored in a way that Pillow does not read; expected 16 bits, interleaved"
            )
        return None
    if rawmode.startswith("LA"):
        pixels = np.asarray(_as_bytes(content)).reshape(image.height, image.width, 2, 2)
        return _joined(pixels[..., 0], pixels[..., 1]), "LA"
    if image.mode.startswith("I;16"):
        pixels, kind = from_pillow(image)
        if image.format == "TIFF" and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
            pixels = 65535 - pixels
        return pixels, kind
    associated = rawmode.startswith("RGBa")
    name, _, order = rawmode.replace("a", "A").partition(";16")
    if order == "N":
        order = "L" if struct.pack("=H", 1)[0] else "B"
    halves = [_bytes_of(content, f"{name};16{half}") for half in "BL"]
    upper, lower = halves if order == "B" else halves[::-1]
    pixels = _joined(upper, lower)
    kind = "RGB" if name == "RGBX" else MODES[image.mode]
    pixels = pixels[..., : CHANNELS[kind]]
    if associated:
        alpha = pixels[..., 3:].astype(np.float64)
        colour = np.divide(pixels[..., :3] * 65535.0, alpha, out=np.zeros((*alpha.shape[:2], 3)), where=alpha > 0)
        pixels = np.concatenate([colour.round().clip(0, 65535).astype(np.uint16), pixels[..., 3:]], -1)
    return _with_transparency(pixels, image.info.get("transparency")) if kind == "RGB" else (pixels, kind)


def _bytes_of(content, rawmode):
    image = open_image(content, max_pixels=1 << 62)
    image.tile = [
        tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:])) for tile in image.tile
    ]
    return np.asarray(image)


def _as_bytes(content):
    """A PNG of 16-bit grey and alpha as one of 8-bit RGBA: its four bytes a pixel."""
    header = b"IHDR" + content[16:24] + bytes([8, 6]) + content[26:29]
    return open_image(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:], 1 << 62)


def _joined(upper, lower):
    return (upper.astype(np.uint16) << 8) | lower


def _to_8_bits(pixels):
    # 65535 / 255 = 257
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _with_transparency(pixels, colour):
    """16-bit pixels with alpha where the file names a transparent colour."""
    kind = "L" if pixels.shape[-1] == 1 else "RGB"
    if colour is None:
        return pixels, kind
    visible = (pixels != np.asarray(colour, np.uint16)).any(-1, keepdims=True)
    return np.concatenate([pixels, visible.astype(np.uint16) * 65535], -1), f"{kind}A"


def _cmyk_to_srgb(pixels, icc):
    if pixels.dtype == np.uint16:
        pixels = _to_8_bits(pixels)
    image = to_pillow(pixels, "CMYK")
    if icc:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            return np.asarray(
                ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            )
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile; the plain formula is what viewers take without one
    return np.asarray(image.convert("RGB"))


def _deep_png(pixels, kind, more):
    """A PNG of 16 bits: the chunks that Pillow writes of a small image, with header and pixels replaced."""
    file = io.BytesIO()
    Image.new(kind, (1, 1)).save(file, "PNG", **more)
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    # Filter 2: each byte less the one above.
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    colour = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[kind]
    new = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0),
        b"IDAT": zlib.compress(filtered.tobytes(), ZLIB_LEVEL),
    }
    source, target = file.getvalue(), io.BytesIO()
    target.write(source[:8])
    place = 8
    while place < len(source):
        (length,) = struct.unpack_from(">I", source, place)
        name, data = source[place + 4 : place + 8], source[place + 8 : place + 8 + length]
        PngImagePlugin.putchunk(target, name, new.get(name, data))
        place += length + 12
    return target.getvalue()


def _tiff(pixels, kind, exif, icc, xmp, dpi):
    """A TIFF of one strip, compressed by zlib after a horizontal difference; Pillow writes no 16-bit colours."""
    height, width, channels = pixels.shape
    little = pixels.astype(pixels.dtype.newbyteorder("<"))
    little[:, 1:] -= pixels[:, :-1]
    data = zlib.compress(little.tobytes(), ZLIB_LEVEL)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in set(exif):
        nested = tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
        if tag in DESCRIPTIVE:
            tags[tag] = dict(exif.get_ifd(tag)) if nested else exif[tag]
            if nested:
                tags.tagtype[tag] = 4
    tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH] = width, height
    tags[TiffImagePlugin.BITSPERSAMPLE] = (pixels.dtype.itemsize * 8,) * channels
    tags[TiffImagePlugin.COMPRESSION] = 8
    tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = {"L": 1, "R": 2, "C": 5}[kind[0]]
    tags[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    tags[TiffImagePlugin.ROWSPERSTRIP] = height
    tags[TiffImagePlugin.STRIPBYTECOUNTS] = len(data)
    tags[TiffImagePlugin.PREDICTOR] = 2
    if kind in ("LA", "RGBA"):
        tags[TiffImagePlugin.EXTRASAMPLES] = 2
    if dpi:
        tags[TiffImagePlugin.X_RESOLUTION], tags[TiffImagePlugin.Y_RESOLUTION] = dpi
        tags[TiffImagePlugin.RESOLUTION_UNIT] = 2
    if icc:
        tags[ICC_TAG] = icc
        tags.tagtype[ICC_TAG] = 7
    if xmp:
        tags[XMP_TAG] = xmp
        tags.tagtype[XMP_TAG] = 1
    # Relative to the end of the tags, which is where the pixels follow.
    tags[TiffImagePlugin.STRIPOFFSETS] = 0
    file = io.BytesIO()
    tags.save(file)
    file.write(data)
    return file.getvalue()
