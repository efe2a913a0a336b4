import base64
import io
import json

import numpy as np
import pytest

from corral.data.media import TimedFrame
from corral.data.messages import Conversation, ImagePart
from corral.guards.base import Status
from corral.guards.media.vision import VisionScorer
from corral.models.engines.base import Prompt
from corral.models.engines.scripted import ScriptedEngine

PIL_Image = pytest.importorskip("PIL.Image")


def seen(prompt: Prompt) -> np.ndarray:
    """The picture that the model was shown."""
    assert isinstance(prompt, Conversation)
    (part,) = [part for part in prompt.messages[-1].content if isinstance(part, ImagePart)]
    return np.asarray(PIL_Image.open(io.BytesIO(base64.b64decode(part.url.partition(",")[2]))))


def test_each_frame_is_shown_scaled_down_and_its_answer_read() -> None:
    def reply(prompt: Prompt) -> str:
        picture = seen(prompt)
        assert picture.shape == (32, 64, 3)
        if picture.mean() > 250:
            return "I'm sorry, but I can't help with that."
        flagged = bool(picture.mean() > 100)
        return json.dumps({"flagged": flagged, "categories": ["gore"] if flagged else [], "confidence": 1})

    scorer = VisionScorer(ScriptedEngine(reply), longest_side=64)
    frames = [TimedFrame(i / 10, np.full((100, 200, 3), grey, np.uint8)) for i, grey in enumerate((0, 200, 255) * 4)]
    found = scorer.score(frames)
    assert [each.time_s for each in found] == [frame.time_s for frame in frames]
    assert [each.score for each in found[:3]] == [0.0, 1.0, None]
    assert found[1].categories == {"content_moderation/gore": 1.0}
    assert found[2].status is Status.REFUSED
