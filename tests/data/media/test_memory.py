"""What is refused costs no memory: the cases run in a process whose largest resident size is read."""

import json
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("PIL")
pytest.importorskip("av")

_HEAD = """
import io, json, resource, struct, sys, zlib
import PIL.Image, PIL.PngImagePlugin, PIL.JpegImagePlugin, PIL.GifImagePlugin, PIL.WebPImagePlugin, av, numpy
from corral.core.errors import MediaError
from corral.data.media import MediaLimits, open_media
from corral.data.media.access import read_stream

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

def png(width, height, rows):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(rows)) + packer.flush()
    return b"\\x89PNG\\r\\n\\x1a\\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")

class Endless(io.RawIOBase):
    given = 0
    def read(self, n=-1):
        self.given += n
        return (b"GIF89a" + bytes(n))[:n]

def refused(act):
    try:
        act()
    except MediaError as error:
        return error.message
    raise SystemExit("was not refused")
"""

_CASES = {
    "a PNG of 40,000 x 40,000": (
        "data = png(40_000, 40_000, 40)",
        "open_media(data)",
    ),
    "a JPEG cut in half": (
        "b = io.BytesIO(); PIL.Image.effect_noise((1000, 1000), 80).save(b, 'JPEG'); data = b.getvalue()[:-100_000]",
        "list(open_media(data).frames([0]))",
    ),
    "a header that promises 19 million pixels": ("data = png(4000, 4900, 1)", "list(open_media(data).frames([0]))"),
    "a stream without end": ("data = Endless()", "read_stream(data, MediaLimits(max_bytes=8 * 2**20))"),
    "a GIF of a million frames": (
        "data = b'GIF89a' + struct.pack('<HHBBB', 2000, 2000, 0, 0, 0)"
        " + (b'\\x2c' + bytes(4) + struct.pack('<HH', 2000, 2000) + b'\\x00\\x02\\x02\\x44\\x01\\x00') * 1_000_000",
        "open_media(data)",
    ),
    "a clip whose frames are too large": (
        "b = io.BytesIO(); c = av.open(b, 'w', format='mp4'); s = c.add_stream('mpeg4', rate=5);"
        " s.width, s.height, s.pix_fmt = 2000, 2000, 'yuv420p';"
        " c.mux(s.encode(av.VideoFrame(2000, 2000, 'yuv420p'))); c.mux(s.encode()); c.close(); data = b.getvalue()",
        "open_media(data, MediaLimits(max_pixels=1_000_000))",
    ),
}
_ALLOWED_MB = 100  # a decoded picture of 20 megapixels takes 60 MB, one of 40,000 x 40,000 takes 4,800


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Message and megabytes of each case, one after the other in one process: memory that is taken once shows."""
    lines = [_HEAD, "found = {}"]
    for case, (make, act) in _CASES.items():
        lines += [make, "before = peak()", f"found[{case!r}] = [refused(lambda: {act}), peak() - before]"]
    program = "\n".join([*lines, "print(json.dumps(found))"])
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.mark.parametrize("case", _CASES)
def test_refusal_is_bounded_in_memory(found: dict[str, Any], case: str) -> None:
    assert found[case][1] < _ALLOWED_MB, found[case]
