"""Images and clips given to ``corral moderate``: a file of one, or the image parts of messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from corral.core.errors import ConfigError
from corral.data.media import MediaAccess, MediaLimits
from corral.data.media.access import read_file, read_stream
from corral.data.media.kinds import MEDIA_SUFFIXES
from corral.guards.media.base import MediaVerdict
from corral.guards.media.loading import load_media_guard
from corral.guards.media.moderator import MediaChannel
from corral.guards.policy import Decision, Policy

DEFAULT_MEDIA_GUARD = "open-nsfw"


def is_media(source: object, *, asked: bool, input_format: str | None) -> bool:
    """Whether what was given is an image or clip: by ``--media``, or by the ending of a file's name."""
    if asked:
        return True
    return input_format is None and isinstance(source, Path) and source.name.lower().endswith(MEDIA_SUFFIXES)


def decide_media(
    source: Path | IO[bytes], policy: Policy, guard: str, settings: Mapping[str, Any]
) -> tuple[str, Decision, MediaVerdict]:
    """Judge one image or clip; also gives the name that its row has.

    Raises:
        MediaError: the file cannot be read, or is larger than the limit.
        MissingDependencyError: ``corral[media]`` is not installed.
    """
    data, name = _read(source)
    (found,) = load_media_guard(guard, **settings).classify_media([data])
    return name, policy.decide([found.verdict]), found


def media_channel(guard: str, settings: Mapping[str, Any], root: Path | None) -> MediaChannel:
    """How the image parts of messages are judged.

    Raises:
        ConfigError: ``root`` is not a folder.
    """
    if root is not None and not root.is_dir():
        raise ConfigError("is not a folder", where=f"--media-root {root}")
    return MediaChannel(lambda: load_media_guard(guard, **settings), MediaAccess(root=root))


def media_explanation(found: MediaVerdict) -> dict[str, Any]:
    """The key ``explained``: what the guard said of each frame."""
    verdict = found.verdict
    frames = [{"time_s": each.time_s, "p_harm": each.score, "status": each.status.value} for each in found.frames]
    said = {"target": verdict.target, "guard": verdict.guard, "status": verdict.status.value, "p_harm": verdict.p_harm}
    return {"explained": [{**said, "modality": found.modality, "frames": frames}]}


def frame_notes(found: MediaVerdict) -> dict[str, str]:
    """What a person is told beyond the row: of a clip, how many frames were looked at and where the highest stood."""
    scored = [frame for frame in found.frames if frame.score is not None]
    if found.modality != "clip" or not scored:
        return {}
    top = max(scored, key=lambda frame: frame.score or 0.0)
    return {"frames": f"{len(found.frames)}, the highest {top.score:.2f} at {top.time_s:.2f} s"}


def _read(source: Path | IO[bytes]) -> tuple[bytes, str]:
    limits = MediaLimits()
    if isinstance(source, Path):
        return read_file(source, limits), source.name
    return read_stream(source, limits), "-"
