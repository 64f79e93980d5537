import io
import os
import pickle
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from dcal_core import storage
from dcal_core.data import images as module
from dcal_core.data.decoding import Unreadable, decode
from dcal_core.data.images import open_images
from dcal_core.data.twins import DataError
from dcal_core.storage import StorageError

SIZE = 16


def picture(seed: int, width: int = SIZE, height: int = SIZE) -> Image.Image:
    """A smooth random RGB picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@pytest.fixture
def faces(tmp_path):
    """Ten readable images, the last one a larger JPEG."""
    paths = [tmp_path / "faces" / f"{number}.png" for number in range(9)] + [tmp_path / "faces" / "9.jpg"]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths[:9]):
        path.write_bytes(encoded(picture(number)))
    paths[9].write_bytes(encoded(picture(9, 24, 24), "JPEG"))
    return paths


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def forbid_decoding(monkeypatch) -> None:
    def refuse(data, size):
        raise AssertionError("decoded although the map exists")

    monkeypatch.setattr(module, "decode", refuse)


def test_batch_equals_pillow(faces, cache):
    store = open_images(faces, SIZE, cache, max_lost_share=0.0)
    assert store.images.shape == (10, 3, SIZE, SIZE) and store.images.dtype == np.uint8
    assert isinstance(store.images, np.memmap)
    assert store.kept.tolist() == list(range(10)) and store.rejected == []

    batch = store.batch([9, 2, 2])
    assert batch.dtype == torch.uint8 and batch.is_contiguous()
    with Image.open(faces[9]) as image:
        resized = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    for got, expected in zip(batch.numpy(), [resized, picture(2), picture(2)], strict=True):
        np.testing.assert_array_equal(got, pixels(expected))
    for indices in (np.array([9, 2, 2]), torch.tensor([9, 2, 2])):
        assert torch.equal(store.batch(indices), batch)
    assert store.batch([]).shape == (0, 3, SIZE, SIZE)


def test_batch_is_a_copy(faces, cache):
    store = open_images(faces, SIZE, cache, max_lost_share=0.0)
    store.batch([0]).zero_()
    np.testing.assert_array_equal(store.images[0], pixels(picture(0)))
    with pytest.raises(ValueError, match="read-only"):
        store.images[0] = 0


def test_more_images_than_one_chunk_stay_in_order(faces, cache, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    store = open_images(faces, SIZE, cache, max_lost_share=0.0, workers=4)
    for number in range(9):
        np.testing.assert_array_equal(store.images[number], pixels(picture(number)))


def test_unchanged_files_are_not_decoded_again_even_when_moved(faces, cache, tmp_path, monkeypatch):
    first = open_images(faces, SIZE, cache, max_lost_share=0.0)
    forbid_decoding(monkeypatch)
    again = open_images(faces, SIZE, cache, max_lost_share=0.0)
    np.testing.assert_array_equal(first.images, again.images)
    os.rename(tmp_path / "faces", tmp_path / "moved")
    moved = [tmp_path / "moved" / path.name for path in faces]
    np.testing.assert_array_equal(first.images, open_images(moved, SIZE, cache, max_lost_share=0.0).images)


def test_content_size_and_order_give_another_map(faces, cache):
    first = open_images(faces, SIZE, cache, max_lost_share=0.0).images.filename
    names = {first, open_images(faces, 8, cache, max_lost_share=0.0).images.filename}
    names.add(open_images(faces[::-1], SIZE, cache, max_lost_share=0.0).images.filename)
    faces[3].write_bytes(encoded(picture(33)))
    changed = open_images(faces, SIZE, cache, max_lost_share=0.0)
    np.testing.assert_array_equal(changed.images[3], pixels(picture(33)))
    assert len(names | {changed.images.filename}) == 4


def test_the_maps_opened_longest_ago_leave_room_for_a_new_one(faces, cache, monkeypatch, capsys):
    first, second, third = ([path] for path in faces[:3])
    stores = [open_images(one, SIZE, cache, max_lost_share=0.0) for one in (first, second)]
    files = [store.images.filename for store in stores]
    for file, opened in zip(files, (1, 2), strict=True):
        os.utime(file, (opened, opened))
    open_images(first, SIZE, cache, max_lost_share=0.0)  # so the second is the one opened longest ago
    monkeypatch.setattr(module, "MOST_DECODED", 2.5 * files[0].stat().st_size)
    open_images(third, SIZE, cache, max_lost_share=0.0)
    assert files[0].is_file() and not files[1].exists() and not files[1].with_suffix(".json").exists()
    assert f"{files[1]}: removed" in capsys.readouterr().out and len(list(cache.iterdir())) == 4
    np.testing.assert_array_equal(stores[1].images[0], pixels(picture(1)))  # a mapped file is kept


def test_nothing_is_left_half_written(faces, cache, monkeypatch):
    open_images(faces, SIZE, cache, max_lost_share=0.0)
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".npy"]

    def interrupted(data, size, fit):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_images(faces, 8, cache, max_lost_share=0.0)
    assert len(list(cache.iterdir())) == 2


def cut_short(file):
    os.truncate(file, file.stat().st_size - 1)


def too_long(file):
    file.write_bytes(file.read_bytes() + b"\0")


def no_header(file):
    file.write_bytes(b"\0" * file.stat().st_size)


def emptied(file):
    file.write_bytes(b"")


def no_listing(file):
    file.with_suffix(".json").unlink()


def broken_listing(file):
    file.with_suffix(".json").write_text("[1")


def other_listing(file):
    file.with_suffix(".json").write_text('{"0": "gone"}')


@pytest.mark.parametrize("damage", [cut_short, too_long, no_header, emptied, no_listing, broken_listing, other_listing])
def test_damaged_map_is_made_anew(faces, cache, capsys, damage):
    expected = np.array(open_images(faces, SIZE, cache, max_lost_share=0.0).images)
    (file,) = cache.glob("*.npy")
    damage(file)
    np.testing.assert_array_equal(open_images(faces, SIZE, cache, max_lost_share=0.0).images, expected)
    assert "damaged and is made again" in capsys.readouterr().out


def png_that_claims(width: int, height: int) -> bytes:
    data = bytearray(encoded(picture(0)))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def bad_images() -> dict[str, tuple[bytes, str]]:
    jpeg, png = encoded(picture(0, 64, 64), "JPEG"), encoded(picture(0, 64, 64))
    return {
        "empty": (b"", "the file is empty"),
        "text": (b"404 not found", "not an image"),
        "truncated JPEG": (jpeg[: len(jpeg) * 3 // 4], "cannot be decoded: image file is truncated"),
        "truncated PNG": (png[: len(png) // 2], "cannot be decoded: "),
        "header alone": (png[:20], "not an image|cannot be decoded"),
        "corrupt PNG": (png[:60] + b"\xff" * 40 + png[100:], "cannot be decoded: "),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        "bomb": (png_that_claims(9_000, 9_000), "9000 x 9000 pixels, more than 64,000,000"),
        "large bomb": (png_that_claims(60_000, 60_000), "decompression bomb"),
        "floating point": (encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
        "32-bit grey": (encoded(Image.new("I", (4, 4), 70_000), "TIFF"), "beyond 16 bits"),
    }


BAD_IMAGES = bad_images()


@pytest.mark.parametrize("data, reason", BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_image_is_named_with_its_reason(data, reason):
    with pytest.raises(Unreadable, match=reason):
        decode(data, SIZE)


def test_rejected_images_are_listed_left_out_and_remembered(faces, cache, capsys, monkeypatch):
    faces[1].write_bytes(b"")
    faces[4].write_text("no image")
    faces[6].unlink()
    for _ in range(2):  # decoded, then mapped
        store = open_images(faces, SIZE, cache, max_lost_share=0.3)
        assert store.kept.tolist() == [0, 2, 3, 5, 7, 8, 9]
        assert store.images.shape[0] == 7
        np.testing.assert_array_equal(store.images[3], pixels(picture(5)))
        assert [path for path, _ in store.rejected] == [faces[1], faces[4], faces[6]]
        reasons = [reason for _, reason in store.rejected]
        assert reasons[0] == "the file is empty" and reasons[2].startswith("there is no such file")
        printed = capsys.readouterr().out
        assert "3 of 10 images cannot be decoded and are left out, first " in printed
        assert f"{faces[4]} (not an image" in printed
        forbid_decoding(monkeypatch)


def test_too_many_rejected_images_stop_the_run(faces, cache):
    for path in faces[:3]:
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DataError, match=r"3 of 10 images .* max_lost_share=0\.2: replace.*0\.png \(the file"):
            open_images(faces, SIZE, cache, max_lost_share=0.2)
    with pytest.raises(DataError, match="3 of 3 images"):
        open_images(faces[:3], SIZE, cache, max_lost_share=1.0)


def test_no_images_and_no_room_are_refused(faces, cache, monkeypatch):
    with pytest.raises(DataError, match="no images to open: give"):
        open_images([], SIZE, cache, max_lost_share=0.0)
    open_images(faces[:2], SIZE, cache, max_lost_share=0.0)
    before = sorted(cache.iterdir())
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    monkeypatch.setattr(module, "decode", None)  # nothing is decoded before
    with pytest.raises(StorageError) as refusal:
        open_images(faces, SIZE, cache, max_lost_share=0.0)
    told = (
        f"{cache} is on a disk with 0.00 GB free, and {len(faces)} images decoded to {SIZE} px take 0.00 GB: free some"
    )
    assert str(refusal.value).startswith(told) and "image_size" in str(refusal.value)
    assert sorted(cache.iterdir()) == before
    open_images(faces[:2], SIZE, cache, max_lost_share=0.0)  # what is decoded already needs no room


def test_image_that_changes_while_it_is_read_stops_the_run(faces, cache, monkeypatch):
    monkeypatch.setattr(module, "_digest", lambda path: "0" * 64)
    with pytest.raises(DataError, match=r"0\.png changed while it was read: run again"):
        open_images(faces, SIZE, cache, max_lost_share=1.0)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGBA", "P", "CMYK", "YCbCr"])
def test_other_colour_modes_become_rgb(mode):
    image = picture(0).convert(mode)
    data = encoded(image, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG")
    with Image.open(io.BytesIO(data)) as stored:
        expected = pixels(stored)
    np.testing.assert_array_equal(decode(data, SIZE), expected)
    true = pixels(image).astype(int)
    assert np.abs(expected - true).mean() < 12


def test_16_bit_grey_is_scaled_not_clipped():
    grey = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        decoded = decode(encoded(Image.fromarray(grey), kind), SIZE)
        np.testing.assert_array_equal(decoded, np.broadcast_to(grey >> 8, (3, SIZE, SIZE)))


def deep_images(white: int) -> dict[str, bytes]:
    """A ramp from black to `white` in files of 16 bits a sample."""
    ramp = np.tile(np.linspace(0, white, SIZE), (SIZE, 1)).round().astype(np.uint16)
    shades = {"grey": ramp, "colour": np.dstack([ramp] * 3), "with alpha": np.dstack([ramp] * 3 + [ramp * 0 + 65535])}
    files = {
        f"{name}{ending}": cv2.imencode(ending, shade)[1].tobytes()
        for name, shade in shades.items()
        for ending in (".png", ".tiff")
    }
    files["colour.ppm"] = b"P6 16 16 65535\n" + shades["colour"].astype(">u2").tobytes()
    files["grey.pgm"] = b"P5 16 16 65535\n" + ramp.astype(">u2").tobytes()
    files["32 bits.tiff"] = encoded(Image.fromarray(ramp.astype(np.int32)), "TIFF")
    return files


@pytest.mark.parametrize("kind", deep_images(255))
def test_16_bit_samples_are_refused_where_they_use_fewer_bits(kind):
    """They would come out dark or black, and what white is cannot be known."""
    right = decode(deep_images(65535)[kind], SIZE)
    assert right.max() == 255 and right.min() == 0 and 120 < right.mean() < 135
    for bits, share in {14: 25, 12: 6, 10: "[12]", 8: 0}.items():
        with pytest.raises(Unreadable, match=f"16 bits that reach {share}% of white only: scale them"):
            decode(deep_images(2**bits - 1)[kind], SIZE)


def test_the_white_that_a_ppm_states_is_its_white():
    ramp = np.tile(np.linspace(0, 1023, SIZE), (SIZE, 1)).round().astype(">u2")
    assert decode(b"P5 16 16 1023\n" + ramp.tobytes(), SIZE).max() == 255
    assert decode(b"P6 16 16 1023\n" + np.dstack([ramp] * 3).tobytes(), SIZE).max() == 255


def see_through(hidden: tuple[int, int, int]) -> dict[str, bytes]:
    """A grey square; around it, under full transparency, another colour."""
    rgba = np.full((SIZE, SIZE, 4), 128, np.uint8)
    rgba[..., 3] = 0
    rgba[4:12, 4:12, 3] = 255
    rgba[rgba[..., 3] == 0, :3] = hidden
    image = Image.fromarray(rgba)
    palette = Image.fromarray((rgba[..., 3] == 0).astype(np.uint8)).convert("P")
    palette.putpalette([128, 128, 128, *hidden])
    return {
        "RGBA.png": encoded(image),
        "LA.png": encoded(image.convert("LA")),
        "palette.png": encoded(palette, transparency=1),
        "palette.gif": encoded(palette, "GIF", transparency=1),
        "colour key.png": encoded(image.convert("RGB"), transparency=hidden),
        "RGBA.webp": encoded(image, "WEBP", lossless=True, exact=True),
        "RGBA.tiff": encoded(image, "TIFF"),
    }


@pytest.mark.parametrize("kind", see_through((0, 0, 0)))
def test_transparent_pixels_are_white_whatever_colour_lies_under_them(kind):
    expected = np.full((3, SIZE, SIZE), 255, np.uint8)
    expected[:, 4:12, 4:12] = 128
    for hidden in ((255, 0, 0), (0, 255, 255)):
        np.testing.assert_array_equal(decode(see_through(hidden)[kind], SIZE), expected)


def test_half_transparent_pixels_are_mixed_with_white():
    image = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 128))
    assert np.abs(decode(encoded(image), SIZE).astype(int) - 127).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(picture(0), kind, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as stored:
        upright = pixels(ImageOps.exif_transpose(stored))
    assert (orientation == 1) == np.array_equal(upright, pixels(picture(0)))
    np.testing.assert_array_equal(decode(data, SIZE), upright)


def exif_jpeg(orientation: int, tag: int, kind: int, count: int, value: bytes) -> bytes:
    """A JPEG, red above and blue below, with the orientation and another tag of any type."""
    image = Image.new("RGB", (SIZE, SIZE), "red")
    image.paste("blue", (0, SIZE // 2, SIZE, SIZE))
    tags = sorted([(0x112, 3, 1, struct.pack("<H", orientation)), (tag, kind, count, value)])
    entries = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in tags)
    return encoded(image, "JPEG", exif=b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4))


@pytest.mark.parametrize(
    "tag, kind, count, value",
    [
        (0x11A, 2, 4, b"72\0"),  # XResolution as text
        (0x100, 2, 4, b"640\0"),  # ImageWidth as text
        (0x111, 2, 4, b"8\0"),  # StripOffsets as text
        (0x132, 5, 1, b"\xff\xff\0\0"),  # DateTime as a fraction beyond the file
        (0x8769, 4, 1, b"\xff\xff\xff\0"),  # a list of tags beyond the file
        (0x10F, 99, 1, b"abcd"),  # a type that does not exist
    ],
)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_odd_tag_that_nobody_needs_is_no_reason_to_refuse(tag, kind, count, value, orientation):
    plain = decode(exif_jpeg(orientation, 0x10F, 2, 4, b"abc\0"), SIZE)
    np.testing.assert_array_equal(decode(exif_jpeg(orientation, tag, kind, count, value), SIZE), plain)
    assert (plain[0, 1, 1] > 200) == (orientation == 1)  # red above


def test_large_and_oblong_images_are_resized_whole():
    for image in (picture(0, 400, 400), picture(0, 90, 30)):
        expected = pixels(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)
        np.testing.assert_array_equal(decode(encoded(image), SIZE), expected)
        drafted = decode(encoded(image, "JPEG", quality=95, subsampling=0), SIZE)
        assert np.abs(drafted - expected).max() < 16


def test_store_is_sent_to_other_processes_by_name(faces, cache):
    store = open_images(faces, 64, cache, max_lost_share=0.0)
    sent = pickle.dumps(store)
    assert len(sent) < store.images[0].nbytes
    received = pickle.loads(sent)
    assert isinstance(received.images, np.memmap)
    assert torch.equal(received.batch([3, 1]), store.batch([3, 1]))


# ---- images that are not square


def bands(width: int, height: int) -> bytes:
    """Along the longer side a red quarter, a green half and a blue quarter."""
    long, short = max(width, height), min(width, height)
    pixels = np.zeros((short, long, 3), np.uint8)
    for channel, (first, last) in enumerate([(0, long // 4), (long // 4, 3 * long // 4), (3 * long // 4, long)]):
        pixels[:, first:last, channel] = 255
    return encoded(Image.fromarray(pixels if width > height else pixels.transpose(1, 0, 2)))


@pytest.mark.parametrize("upright", [False, True])
def test_fit_says_what_becomes_of_an_image_that_is_not_square(upright):
    data = bands(32, 64) if upright else bands(64, 32)

    def colours(fit):
        """Red, green, blue or grey at each eighth of the longer side, in the middle of the other."""
        pixels = decode(data, 64, fit).astype(int)
        assert pixels.shape == (3, 64, 64)
        line = pixels[:, :, 32] if upright else pixels[:, 32, :]
        return "".join("x" if np.ptp(line[:, at]) < 9 else "rgb"[line[:, at].argmax()] for at in range(4, 64, 8))

    assert colours("stretch") == colours("pad") == "rrggggbb"
    assert colours("crop") == "gggggggg"
    across = decode(data, 64, "pad").astype(int)
    line = across[:, 32, :] if upright else across[:, :, 32]
    assert (line[:, [2, 61]] == 128).all() and line[1, 32] > 200


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_a_square_image_is_the_same_however_it_is_fitted(faces, fit):
    data = faces[0].read_bytes()
    np.testing.assert_array_equal(decode(data, SIZE, fit), decode(data, SIZE))


def test_images_fitted_otherwise_are_decoded_anew(tmp_path, cache):
    file = tmp_path / "wide.png"
    file.write_bytes(bands(64, 32))
    stores = [open_images([file], SIZE, cache, 0.0, fit=fit) for fit in ("stretch", "pad", "crop", "pad")]
    assert len({store.images.filename for store in stores}) == 3
    for store, fit in zip(stores, ("stretch", "pad", "crop"), strict=False):
        np.testing.assert_array_equal(store.images[0], decode(file.read_bytes(), SIZE, fit))
