import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from corral.core.errors import MediaError
from corral.data.media import MediaLimits, open_media
from corral.data.media.frames import shown_at

GREYS = list(range(0, 250, 10))


@pytest.mark.parametrize(("name", "kind"), [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "webp"), ("GIF", "gif")])
def test_a_picture_is_told_by_its_content_and_decoded(make_picture: Any, name: str, kind: str) -> None:
    media = open_media(make_picture(name))
    (frame,) = media.frames([0])
    assert (media.kind, media.modality, media.width, media.height) == (kind, "image", 32, 24)
    assert frame.rgb.shape == (24, 32, 3)
    assert np.abs(frame.rgb.astype(int) - [200, 40, 90]).max() <= 12


@pytest.mark.parametrize(
    ("codec", "container", "kind"),
    [("libx264", "mp4", "mp4"), ("libvpx-vp9", "webm", "matroska"), ("mpeg4", "avi", "avi")],
)
def test_a_clip_has_the_times_of_its_frames_and_gives_the_frames_asked_for(
    make_clip: Any, codec: str, container: str, kind: str
) -> None:
    media = open_media(make_clip(GREYS, codec=codec, container=container))
    assert (media.kind, media.modality, media.width, media.height) == (kind, "clip", 64, 48)
    assert media.starts_s == pytest.approx([index / 10 for index in range(25)], abs=2e-3)
    for wanted in ([0], [3, 4, 20], [24], list(range(25))):
        found = [(frame.time_s, frame.rgb.mean()) for frame in media.frames(wanted)]
        assert [time for time, _ in found] == [media.starts_s[index] for index in wanted]
        assert [grey for _, grey in found] == pytest.approx([GREYS[index] for index in wanted], abs=6)


def test_a_variable_frame_rate_is_kept(make_clip: Any) -> None:
    times = [0.0, 0.1, 0.15, 0.9, 1.0, 2.5]
    media = open_media(make_clip([0, 50, 100, 150, 200, 250], times=times))
    assert media.starts_s == pytest.approx(times, abs=2e-3)
    assert shown_at(media.starts_s, [0.12, 0.5, 2.4]) == [1, 2, 4]


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG"])
def test_an_animated_image_is_a_clip(name: str) -> None:
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 80, 160, 240)]
    with io.BytesIO() as buffer:
        frames[0].save(buffer, name, save_all=True, append_images=frames[1:], duration=100)
        media = open_media(buffer.getvalue())
    assert media.modality == "clip"
    assert media.starts_s == pytest.approx([0.0, 0.1, 0.2, 0.3])
    reds = [frame.rgb[..., 0].mean() for frame in media.frames([1, 3])]
    assert reds == pytest.approx([80, 240], abs=4)


def test_transparent_pixels_are_shown_on_white() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    with io.BytesIO() as buffer:
        image.save(buffer, "PNG")
        (frame,) = open_media(buffer.getvalue()).frames([0])
    assert frame.rgb[0, 0].tolist() == [255, 0, 0]
    assert frame.rgb[2, 2].tolist() == [255, 255, 255]


def test_a_photograph_is_turned_as_its_exif_data_say() -> None:
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    with io.BytesIO() as buffer:
        image.save(buffer, "JPEG", exif=exif)
        (frame,) = open_media(buffer.getvalue()).frames([0])
    assert frame.rgb.shape == (20, 10, 3)


def rejection(data: bytes, limits: MediaLimits | None = None) -> str:
    """Why opening the bytes and decoding all frames is refused."""
    with pytest.raises(MediaError) as caught:
        media = open_media(data, limits)
        list(media.frames(range(len(media.starts_s))))
    return caught.value.message


def png_with_header(width: int, height: int) -> bytes:
    """A PNG whose header states a size, with no more than a few bytes of pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_header_of_forty_thousand_pixels_square_is_refused() -> None:
    assert "far too many pixels" in rejection(png_with_header(40_000, 40_000))


def test_more_pixels_than_the_limit_are_refused_and_as_many_are_not(make_picture: Any) -> None:
    data = make_picture(width=100, height=100)
    assert open_media(data, MediaLimits(max_pixels=10_000)).width == 100
    assert "over the limit of 9,999" in rejection(data, MediaLimits(max_pixels=9_999))


def test_a_header_that_promises_pixels_that_are_not_there_is_refused() -> None:
    assert "48,004,000 bytes of pixels, and 1,000 are there" in rejection(png_with_header(4000, 4000))


@pytest.mark.parametrize(("mode", "width"), [("1", 13), ("L", 7), ("P", 5), ("RGB", 3), ("RGBA", 9), ("I;16", 4)])
def test_the_pixels_of_every_kind_of_png_are_counted_right(mode: str, width: int) -> None:
    with io.BytesIO() as buffer:
        Image.new(mode, (width, 11)).save(buffer, "PNG")
        (frame,) = open_media(buffer.getvalue()).frames([0])
    assert frame.rgb.shape == (11, width, 3)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (5, 3), (8, 8), (9, 17)])
def test_the_pixels_of_an_interlaced_png_are_counted_by_its_passes(width: int, height: int) -> None:
    # Adam7 by brute force: the pass of each pixel, from the 8 x 8 pattern of the specification
    pattern = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"]
    rows = {(pattern[y % 8][x % 8], y) for x in range(width) for y in range(height)}
    count = len(rows) + 3 * width * height

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1))
    whole, short = (chunk(b"IDAT", zlib.compress(bytes(n))) + chunk(b"IEND", b"") for n in (count, count - 1))
    assert open_media(head + whole).width == width
    assert "are there" in rejection(head + short)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_truncated_picture_is_refused(name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with io.BytesIO() as buffer:
        Image.fromarray(noise).save(buffer, name)
        data = buffer.getvalue()
    rejection(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xe0 not a JPEG after all", b"\x89PNG\r\n\x1a\n<html>", b"GIF89a\x01"])
def test_a_forged_header_is_refused(data: bytes) -> None:
    rejection(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"<svg/>", b"%PDF-1.7", b"#EXTM3U\nhttp://127.0.0.1/", b"....ftypavif....", b"BM" + bytes(60), bytes(1000)],
)
def test_what_is_no_picture_or_clip_that_is_read_is_refused(data: bytes) -> None:
    rejection(data)


def test_a_truncated_clip_is_refused(make_clip: Any) -> None:
    data = make_clip(GREYS)
    rejection(data[: len(data) // 2])
    rejection(data[:-300])


def test_a_clip_over_the_limits_is_refused(make_clip: Any) -> None:
    data = make_clip(GREYS)
    rejection(data, MediaLimits(max_pixels=64 * 48 - 1))
    assert "more than 24 frames" in rejection(data, MediaLimits(max_clip_frames=24))
    assert "had to be decoded" in rejection(data, MediaLimits(max_decoded_frames=5))
    assert "bytes" in rejection(data, MediaLimits(max_bytes=len(data) - 1))


def test_sound_alone_holds_no_pictures() -> None:
    import av

    with io.BytesIO() as buffer:
        with av.open(buffer, "w", format="mp4") as output:
            stream = output.add_stream("aac", rate=16000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            output.mux(stream.encode(frame))
            output.mux(stream.encode())
        assert "no pictures" in rejection(buffer.getvalue())


def endless_gif(frames: int) -> bytes:
    """A GIF of one-pixel frames, without a trailer when it would never end."""
    frame = b"\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00"
    return b"GIF89a\x01\x00\x01\x00\x80\x00\x00" + bytes(6) + frame * frames


def test_a_gif_of_frames_without_end_is_refused_at_the_limit() -> None:
    assert "more than 256 frames" in rejection(endless_gif(200_000))
    assert "truncated" in rejection(endless_gif(5))
    assert open_media(endless_gif(5) + b"\x3b").modality == "clip"
    assert "no frame" in rejection(endless_gif(0) + b"\x3b")


def test_a_gif_frame_outside_of_the_canvas_counts_for_the_size() -> None:
    head = b"GIF89a\x01\x00\x01\x00\x80\x00\x00" + bytes(6)
    far = b"\x2c" + struct.pack("<HHHH", 0, 0, 60_000, 60_000) + b"\x00\x02\x02\x44\x01\x00"
    assert "over the limit" in rejection(head + far + b"\x3b")


def test_decoding_ends_when_its_time_is_over(make_clip: Any) -> None:
    assert "seconds" in rejection(make_clip(GREYS), MediaLimits(max_seconds=1e-9))


@pytest.fixture(scope="module")
def wholes(make_picture: Callable[..., bytes], make_clip: Callable[..., bytes]) -> list[bytes]:
    return [make_picture("PNG"), make_picture("JPEG"), make_picture("WEBP"), make_picture("GIF"), make_clip([0, 90])]


@given(which=st.integers(0, 4), place=st.floats(0, 1), byte=st.integers(0, 255), cut=st.floats(0, 1))
def test_damaged_bytes_are_decoded_or_refused_and_nothing_else(
    wholes: list[bytes], which: int, place: float, byte: int, cut: float
) -> None:
    data = bytearray(wholes[which])
    data[int(place * (len(data) - 1))] = byte
    try:
        media = open_media(bytes(data[: 1 + int(cut * len(data))]))
        list(media.frames(range(len(media.starts_s))))
    except MediaError:
        pass
