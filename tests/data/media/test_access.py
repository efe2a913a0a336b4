import base64
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError, MediaError
from corral.data.media import MediaAccess, MediaLimits
from corral.data.media.access import read_data_uri, read_file, read_stream


@given(st.binary(max_size=200))
def test_a_data_uri_gives_its_bytes_back(data: bytes) -> None:
    assert read_data_uri(f"data:image/png;base64,{base64.b64encode(data).decode()}", MediaLimits()) == data


def test_a_percent_encoded_data_uri_is_read() -> None:
    assert read_data_uri("data:text/plain,a%20b", MediaLimits()) == b"a b"


@pytest.mark.parametrize("uri", ["data:image/png;base64", "data:image/png;base64,a*b", "image/png,AAAA"])
def test_a_malformed_data_uri_is_refused(uri: str) -> None:
    with pytest.raises(MediaError):
        read_data_uri(uri, MediaLimits())


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes(100))
    assert len(read_file(tmp_path / "a.png", MediaLimits(max_bytes=100))) == 100
    with pytest.raises(MediaError, match="more than 99 bytes"):
        read_file(tmp_path / "a.png", MediaLimits(max_bytes=99))


def test_devices_pipes_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path, tmp_path / "absent.png"):
        with pytest.raises(MediaError):
            read_file(path, MediaLimits())


def test_a_stream_is_read_no_further_than_the_limit() -> None:
    stream = io.BytesIO(bytes(10_000))
    with pytest.raises(MediaError, match="more than 100 bytes"):
        read_stream(stream, MediaLimits(max_bytes=100))
    assert stream.tell() == 101


def test_paths_and_addresses_are_followed_only_where_allowed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    allowed = MediaAccess(root=tmp_path / "in")
    assert allowed.read("a.png") == b"inside"
    assert allowed.read(str(tmp_path / "in" / "a.png")) == b"inside"
    for url in (
        "../secret",
        str(tmp_path / "secret"),
        "link",
        "a\0b",
        "file:///etc/hostname",
        "http://127.0.0.1/a.png",
    ):
        with pytest.raises(MediaError):
            allowed.read(url)
    with pytest.raises(MediaError, match="local paths are not allowed"):
        MediaAccess().read("a.png")


def test_a_remote_address_goes_through_what_the_operator_gives() -> None:
    asked: list[tuple[str, int]] = []

    def fetch(url: str, limit: int) -> bytes:
        asked.append((url, limit))
        return b"12345"

    limits = MediaLimits(max_bytes=5)
    assert MediaAccess(fetch=fetch, limits=limits).read("https://example.org/a.png") == b"12345"
    assert asked == [("https://example.org/a.png", 5)]
    with pytest.raises(MediaError, match="more than 4 bytes"):
        MediaAccess(fetch=fetch, limits=MediaLimits(max_bytes=4)).read("https://example.org/a.png")


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError):
        MediaLimits(max_pixels=0)
