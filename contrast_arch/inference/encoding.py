"""Picture files out: PNG, JPEG, WebP, BMP and TIFF, 8 and 16 bit, with their metadata.

Pillow writes no colours of 16 bits: 16-bit PNG and all TIFF files are put together here.
"""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin

from contrast_arch.errors import InputError
from contrast_arch.inference.images import DESCRIPTIVE, ICC_TAG, XMP_TAG, Picture, to_pillow

# Pixels a side; the largest that the format's header can say.
LARGEST = {"JPEG": 65_535, "WEBP": 16_383}
# Formats without alpha.
OPAQUE = ("JPEG", "BMP")
# Between size and time: of 512x512 pixels in RGB 6, the usual one, takes 2.5 times as long.
ZLIB_LEVEL = 3


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


def _sized(exif, width, height):
    """A copy of EXIF data in which the sizes it names are those of the image."""
    copy = Image.Exif()
    if len(exif):
        copy.load(exif.tobytes())
    sizes = {ExifTags.Base.ExifImageWidth: width, ExifTags.Base.ExifImageHeight: height}
    details = copy.get_ifd(ExifTags.IFD.Exif)
    details.update({tag: value for tag, value in sizes.items() if tag in details})
    return copy


def _to_8_bits(pixels):
    # 65535 / 255 = 257
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


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
