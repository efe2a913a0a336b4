import io
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.data.media import MediaLimits, TimedFrame
from corral.guards.base import Status
from corral.guards.media.base import FrameScore, MediaGuard
from corral.guards.media.frame_guard import FrameGuard, centred
from corral.guards.media.loading import load_media_guard
from corral.guards.media.pooling import Pooling
from corral.guards.media.sampling import Sampling
from corral.guards.media.scripted import ScriptedScorer

pytest.importorskip("PIL")


def animation(reds: Iterable[int]) -> bytes:
    """A GIF whose frames are plain, ten a second."""
    from PIL import Image

    first, *rest = [Image.new("RGB", (8, 8), (red, 0, 0)) for red in reds]
    with io.BytesIO() as buffer:
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=100)
        return buffer.getvalue()


def by_red(frame: TimedFrame) -> float:
    return float(frame.rgb[0, 0, 0]) / 255


def test_a_clip_is_flagged_by_one_planted_frame_and_its_time_is_told() -> None:
    guard = FrameGuard(ScriptedScorer(by_red), Sampling(frames=10))
    (found,) = guard.classify_media([animation([0, 10, 20, 30, 255, 50, 60, 70, 80, 90])])
    assert (found.verdict.flagged, found.verdict.p_harm, found.modality) == (True, 1.0, "clip")
    assert found.verdict.windows == len(found.frames) == 10
    top = max(found.frames, key=lambda frame: frame.score or 0)
    assert (top.time_s, top.score) == (0.4, 1.0)


def test_two_of_k_frames_are_not_reached_by_one() -> None:
    guard = FrameGuard(ScriptedScorer(by_red), Sampling(frames=10), Pooling("m_of_k", 2))
    one, two = guard.classify_media([animation([0, 0, 0, 255, 1]), animation([0, 255, 0, 254, 1])])
    assert (one.verdict.flagged, two.verdict.flagged) == (False, True)


def test_a_calibrated_threshold_becomes_one_half_for_clips_only() -> None:
    guard = FrameGuard(ScriptedScorer(by_red), threshold=0.9)
    clip, image = guard.classify_media([animation([0, 204]), animation([204])])
    assert (clip.modality, clip.verdict.flagged) == ("clip", False)
    assert (image.modality, image.verdict.flagged, image.verdict.p_harm) == ("image", True, 0.8)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1))
def test_centring_keeps_order_and_puts_the_threshold_at_one_half(a: float, b: float, threshold: float) -> None:
    low, high = sorted((a, b))
    assert 0 <= centred(low, threshold) <= centred(high, threshold) <= 1
    assert (centred(a, threshold) >= 0.5) == (a >= threshold)


def test_what_cannot_be_decoded_is_rejected_and_the_others_are_judged() -> None:
    guard = FrameGuard(ScriptedScorer(by_red), limits=MediaLimits(max_frames=3))
    broken, long, fine = guard.classify_media([b"no picture", animation(range(9)), animation([255])])
    assert (broken.verdict.status, broken.modality) == (Status.REJECTED, None)
    assert long.verdict.status is Status.REJECTED
    assert fine.verdict.flagged


class HalfBlind:
    """Gives no answer about dark frames."""

    name, revision, taxonomy = "half-blind", "1", ""

    def score(self, frames: Iterable[TimedFrame]) -> list[FrameScore]:
        return [
            FrameScore(each.time_s, None, status=Status.REFUSED, detail="too dark")
            if each.rgb.max() < 30
            else FrameScore(each.time_s, by_red(each))
            for each in frames
        ]


def test_frames_without_an_answer_leave_a_clip_undecided_unless_the_rest_flags_it() -> None:
    unclear, flagged = FrameGuard(HalfBlind()).classify_media([animation([0, 60]), animation([0, 240])])
    assert (unclear.verdict.status, unclear.verdict.flagged) == (Status.REFUSED, None)
    assert "0.00 s: too dark" in (unclear.verdict.detail or "")
    assert (flagged.verdict.status, flagged.verdict.flagged) == (Status.OK, True)


def test_a_scorer_that_breaks_gives_no_verdict() -> None:
    def broken(frame: TimedFrame) -> float:
        raise RuntimeError("a secret")

    (found,) = FrameGuard(ScriptedScorer(broken)).classify_media([animation([1])])
    assert found.verdict.status is Status.ERROR
    assert "secret" not in (found.verdict.detail or "")


def test_guards_are_loaded_by_name_and_settings_change_the_revision() -> None:
    guards = [load_media_guard("scripted-media"), load_media_guard("scripted-media", frames=3, pooling="m_of_k", m=2)]
    assert all(isinstance(guard, MediaGuard) for guard in guards)
    assert guards[0].revision != guards[1].revision


def test_a_verdict_is_plain_json() -> None:
    (found,) = FrameGuard(ScriptedScorer(by_red)).classify_media([animation([0, 255])])
    value = found.to_json()
    assert [frame["time_s"] for frame in value["frames"]] == [0.0, 0.1]
    assert value["status"] == "ok"
    assert np.isclose(value["p_harm"], 1.0)
