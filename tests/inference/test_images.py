"""Picture files in and out, by value; what Pillow, OpenCV and tifffile write and read."""

import dataclasses
import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin

from contrast_arch.errors import InputError
from contrast_arch.inference import images
from tests.conftest import SET5

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6" dc:creator="me"/></x:xmpmeta>'
PHOTO = np.asarray(Image.open(SET5 / "LR_bicubic" / "X4" / "birdx4.png"))
CLEAN_XMP = XMP.replace(b' tiff:Orientation="6"', b"")


def deep(channels, seed=0):
    return np.random.default_rng(seed).integers(0, 65536, (13, 17, channels), dtype=np.uint16)


def saved(image, format, **more):
    file = io.BytesIO()
    image.save(file, format, **more)
    return file.getvalue()


def with_transparent_colour(pixels):
    """A PNG of 16 bits."""
    content = encode(images.Picture(pixels, "PNG"), "PNG")
    file = io.BytesIO(content[:33])
    file.seek(33)
    PngImagePlugin.putchunk(file, b"tRNS", struct.pack(">HHH", *map(int, pixels[2, 3])))
    return file.getvalue() + content[33:]


def encode(picture, format, **more):
    return images.encode(dataclasses.replace(picture, format=format), **more)


def of_opencv(suffix, pixels):
    order = [2, 1, 0, 3][: pixels.shape[-1]] if pixels.shape[-1] > 2 else [0]
    return cv2.imencode(suffix, pixels[..., order])[1].tobytes()


def of_tifffile(pixels, **more):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **more)
    return file.getvalue()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("kind", images.KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_written_comes_back_to_the_last_bit(format, kind, dtype):
    pixels = deep(len(kind)).astype(dtype)
    content = encode(images.Picture(pixels, format), format)
    if kind == "LA" and format == "TIFF" and dtype == np.uint16:
        np.testing.assert_array_equal(tifffile.imread(io.BytesIO(content)), pixels)
        return
    found = images.read(content)
    assert found.format == format
    np.testing.assert_array_equal(found.pixels, pixels)
    assert found.pixels.dtype == dtype


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels, kind", [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_16_bits_as_opencv_writes_and_reads_them(suffix, channels, kind):
    pixels = deep(channels)
    found = images.read(of_opencv(suffix, pixels))
    np.testing.assert_array_equal(found.pixels, pixels)
    written = encode(found, images.SUFFIXES[suffix])
    back = cv2.imdecode(np.frombuffer(written, np.uint8), cv2.IMREAD_UNCHANGED).reshape(pixels.shape)
    np.testing.assert_array_equal(back, pixels[..., [2, 1, 0, 3][:channels]] if channels > 2 else pixels)


@pytest.mark.parametrize(
    "channels, kind, more",
    [
        (1, "L", {"compression": "zlib", "predictor": True}),
        (1, "L", {"byteorder": ">"}),
        (3, "RGB", {"photometric": "rgb", "byteorder": ">"}),
        (3, "RGB", {"photometric": "rgb", "compression": "zlib", "predictor": True}),
        (4, "RGBA", {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (4, "RGB", {"photometric": "rgb", "extrasamples": ["unspecified"]}),
        (4, "RGBA", {"photometric": "rgb", "extrasamples": ["unassalpha"], "compression": "zlib", "byteorder": ">"}),
    ],
)
def test_16_bit_tiff_as_tifffile_writes_and_reads_them(channels, kind, more):
    pixels = deep(channels)
    content = of_tifffile(pixels[..., 0] if channels == 1 else pixels, **more)
    found = images.read(content)
    pixels = pixels[..., : len(kind)]
    np.testing.assert_array_equal(found.pixels, pixels)
    back = tifffile.imread(io.BytesIO(encode(found, "TIFF")))
    np.testing.assert_array_equal(back.reshape(pixels.shape), pixels)


def test_tiff_with_white_as_zero():
    pixels = deep(1)
    for dtype, most in ((np.uint8, 255), (np.uint16, 65535)):
        content = of_tifffile(pixels[..., 0].astype(dtype), photometric="miniswhite")
        np.testing.assert_array_equal(images.read(content).pixels, most - pixels.astype(dtype))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: b"", "damaged, or not a PNG"),
        (lambda: b"nothing of the kind", "damaged, or not a PNG, JPEG, WebP, BMP or TIFF"),
        (lambda: saved(Image.fromarray(PHOTO), "GIF"), "damaged, or not a PNG"),
        (lambda: saved(Image.fromarray(PHOTO), "PNG")[:3000], "truncated"),
        (lambda: saved(Image.fromarray(PHOTO), "JPEG")[:1500], "truncated"),
        (
            lambda: saved(Image.fromarray(PHOTO[..., 0].astype(np.float32)), "TIFF"),
            "pixels stored as F;32F; expected 8 bits, or 16",
        ),
        (
            lambda: of_tifffile(np.zeros((3, 8, 8), np.uint16), photometric="rgb", planarconfig="separate"),
            "interleaved",
        ),
        (lambda: of_tifffile(deep(4), photometric="rgb", extrasamples=["assocalpha"]), "pixels stored as RGBa;16L"),
        (lambda: of_tifffile(deep(4), photometric="separated"), "pixels stored as CMYK;16L"),
        (lambda: with_transparent_colour(deep(3)), "pixels stored as RGB;16B"),
        (
            lambda: saved(Image.fromarray(PHOTO), "WEBP", save_all=True, append_images=[Image.fromarray(255 - PHOTO)]),
            "several pages or frames; expected one",
        ),
        (
            lambda: of_tifffile(np.zeros((8, 8, 2), np.uint16), photometric="minisblack", extrasamples=["unassalpha"]),
            "damaged, or not a PNG",
        ),
        (
            lambda: saved(Image.fromarray(PHOTO), "TIFF", save_all=True, append_images=[Image.fromarray(PHOTO)]),
            "several pages or frames; expected one",
        ),
    ],
)
def test_bad_files_are_named(make, message):
    with pytest.raises(InputError) as raised:
        images.read(make())
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_the_limit_of_pixels():
    content = saved(Image.fromarray(PHOTO), "PNG")
    height, width = PHOTO.shape[:2]
    with pytest.raises(InputError, match=f"are 5,184 pixels, expected at most 5,183; .*--max-pixels {height * width}$"):
        images.read(content, height * width - 1)
    np.testing.assert_array_equal(images.read(content, height * width).pixels, PHOTO)
    before = Image.MAX_IMAGE_PIXELS
    large = saved(Image.new("1", (20_000, 10_000)), "PNG")
    with pytest.raises(InputError, match="20000x10000 are 200,000,000 pixels, expected at most 89,478,485"):
        images.read(large)
    assert images.open_image(large, 200_000_000).size == (20_000, 10_000) and before == Image.MAX_IMAGE_PIXELS


def palette(colours, **more):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % len(colours), "L").copy()
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([value for colour in colours for value in colour])
    return saved(image, "PNG", **more)


def test_palettes_bits_and_transparent_colours():
    colours = np.array([(255, 0, 0), (1, 2, 3), (9, 9, 9)], np.uint8)
    index = np.arange(12).reshape(3, 4) % 3
    found = images.read(palette(colours))
    np.testing.assert_array_equal(found.pixels, colours[index])
    found = images.read(palette(colours, transparency=bytes([0, 128, 255])))
    np.testing.assert_array_equal(found.pixels[..., 3], np.array([0, 128, 255])[index])

    page = np.random.default_rng(0).integers(0, 2, (9, 11), dtype=np.uint8) * 255
    for format in ("PNG", "TIFF", "BMP"):
        found = images.read(saved(Image.fromarray(page).convert("1"), format))
        np.testing.assert_array_equal(found.pixels[..., 0], page)

    found = images.read(saved(Image.fromarray(PHOTO), "PNG", transparency=tuple(map(int, PHOTO[0, 0]))))
    np.testing.assert_array_equal(found.pixels[..., 3] == 0, np.equal(PHOTO, PHOTO[0, 0]).all(-1))
    grey = Image.fromarray(PHOTO[..., 0])
    found = images.read(saved(grey, "PNG", transparency=int(PHOTO[0, 0, 0])))
    np.testing.assert_array_equal(found.pixels[..., 1] == 0, PHOTO[..., 0] == PHOTO[0, 0, 0])


def test_interlaced_png_of_16_bits():
    """Adam7: Pillow and OpenCV write none; of one pixel it is the same data with another header."""
    content = encode(images.Picture(deep(3)[:1, :1], "PNG"), "PNG")
    file = io.BytesIO(content[:8])
    file.seek(8)
    PngImagePlugin.putchunk(file, b"IHDR", content[16:28] + b"\1")
    np.testing.assert_array_equal(images.read(file.getvalue() + content[33:]).pixels, deep(3)[:1, :1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    "entry", [b"", (0x8769, 4, 1, 9999), (0x8769, 2, 1, 65), (0x8769, 4, 2, 8), (0x11A, 5, 1, 8), (0x10F, 13, 1, 8)]
)
def test_damaged_exif_data_cost_no_picture(format, entry):
    """Cut off, or with pointers and types that lead nowhere."""
    data = b"Exif\0\0II*\0\x08\0\0\0\1\0" + (entry and struct.pack("<HHIIxxxx", *entry))
    picture = images.read(saved(Image.fromarray(PHOTO), "JPEG", exif=data, quality=95))
    found = images.read(encode(picture, format))
    assert np.abs(found.pixels.astype(int) - picture.pixels).mean() < 8


def test_the_picture_of_a_jpeg_with_previews():
    content = saved(Image.fromarray(PHOTO), "MPO", save_all=True, append_images=[Image.fromarray(PHOTO[:9])])
    found = images.read(content)
    assert found.format == "JPEG"
    np.testing.assert_array_equal(found.pixels, np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_reset(format, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(PHOTO[:40])
    content = saved(image, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    found = images.read(content)
    np.testing.assert_array_equal(found.pixels, expected)
    back = Image.open(io.BytesIO(encode(found, format)))
    assert back.getexif().get(ExifTags.Base.Orientation, 1) == 1 and back.size == expected.shape[1::-1]


@pytest.mark.parametrize("orientation", [None, 1])
def test_orientation_of_xmp_counts_where_exif_has_none(orientation):
    """The result is shown as the source is: with the same size, upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    content = saved(Image.fromarray(PHOTO[:40]), "JPEG", exif=exif, xmp=XMP)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).size
    assert expected == ((72, 40) if orientation else (40, 72))
    found = Image.open(io.BytesIO(images.encode(images.read(content))))
    assert found.size == expected and ImageOps.exif_transpose(found).size == expected


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("target", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_metadata_is_kept(source, target, dtype):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.Orientation] = 6
    details = {ExifTags.Base.DateTimeOriginal: "2020:01:02 03:04:05", ExifTags.Base.ExifImageWidth: 5}
    exif.get_ifd(ExifTags.IFD.Exif).update(details)
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    more = {"exif": exif, "icc_profile": SRGB, "xmp": XMP, "dpi": (300, 150)}
    if source == "PNG":
        more["pnginfo"] = PngImagePlugin.PngInfo()
        more["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    elif source == "TIFF":
        more["exif"] = Image.Exif()
        more["exif"].load(exif.tobytes())
        more["exif"][700] = XMP
    picture = images.read(saved(Image.fromarray(PHOTO[:40]), source, **more))
    height, width = picture.pixels.shape[:2]
    assert (height, width) == PHOTO[:40].shape[1::-1]
    picture.pixels = picture.pixels.astype(dtype)
    content = encode(picture, target, software="contrast-arch 1")
    image = Image.open(io.BytesIO(content))
    image.load()
    found = image.getexif()
    assert found[ExifTags.Base.Make] == "Maker" and ExifTags.Base.Orientation not in found
    expected = {ExifTags.Base.DateTimeOriginal: details[ExifTags.Base.DateTimeOriginal]}
    # The sizes that it named are no longer those of the image.
    assert found.get_ifd(ExifTags.IFD.Exif) == expected
    assert found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
    assert image.info["icc_profile"] == SRGB
    assert (image.text["Software"] if target == "PNG" else found[ExifTags.Base.Software]) == "contrast-arch 1"
    again = images.read(content)
    assert again.metadata["xmp"].split() == CLEAN_XMP.split()
    if source != "WEBP" and target != "WEBP":
        # Turned by 90 degrees.
        np.testing.assert_allclose(again.metadata["dpi"], (150, 300), atol=0.02)


def test_cmyk_becomes_srgb():
    ink = Image.fromarray(PHOTO).convert("CMYK")
    for more in ({}, {"icc_profile": b"a broken profile"}):
        found = images.read(saved(ink, "TIFF", **more))
        assert "icc_profile" not in found.metadata
        np.testing.assert_array_equal(found.pixels, np.asarray(ink.convert("RGB")))
    assert images.read(saved(ink, "JPEG")).pixels.shape == PHOTO.shape


def test_colours_of_16_bits_a_pixel():
    """A bitmap of 5, 6 and 5 bits is one of 8 bits to Pillow."""
    header = struct.pack(
        "<2sIIIIiiHHIIIIIIIII", b"BM", 74, 0, 66, 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0, 0xF800, 0x7E0, 0x1F
    )
    found = images.read(header + struct.pack("<HH", 0xF800, 0x7E0))
    np.testing.assert_array_equal(found.pixels, [[[255, 0, 0], [0, 255, 0]]])


def test_formats_of_8_bits_and_without_alpha():
    pixels = deep(4)
    picture = images.Picture(pixels, "PNG")
    for format in ("JPEG", "BMP"):
        with pytest.raises(InputError, match=f"transparent in places, which {format} cannot store; take --format png"):
            images.check(17, 13, dataclasses.replace(picture, format=format))
    pixels[..., 3] = 65535
    found = images.read(encode(picture, "BMP"))
    np.testing.assert_array_equal(found.pixels, (pixels[..., :3] / 257).round().astype(np.uint8))
    assert images.read(encode(picture, "WEBP")).pixels.dtype == np.uint8
    for format, most in images.LARGEST.items():
        one = dataclasses.replace(picture, format=format)
        images.check(most, 1, one)
        with pytest.raises(InputError, match=f"{most + 1}x1: {format} holds at most {most} pixels a side"):
            images.check(most + 1, 1, one)
        # What check lets through, Pillow writes.
        line = np.full((1, most, 1), 255, np.uint8)
        assert Image.open(io.BytesIO(encode(images.Picture(line, format), format))).size == (most, 1)
