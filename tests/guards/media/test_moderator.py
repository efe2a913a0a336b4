import base64
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.core.errors import MissingDependencyError
from corral.data.media import MediaAccess
from corral.data.messages import AudioPart, Conversation, ImagePart, Message, Part, TextPart
from corral.guards.media.base import MediaGuard
from corral.guards.media.loading import load_media_guard
from corral.guards.media.moderator import MediaChannel, MediaModerator
from corral.guards.moderator import Moderator
from corral.guards.scripted import ScriptedGuard

PIL_Image = pytest.importorskip("PIL.Image")


def uri(colour: str) -> str:
    with io.BytesIO() as buffer:
        PIL_Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


RED, BLUE = ImagePart(uri("red")), ImagePart(uri("blue"))


def user(*parts: Part) -> Conversation:
    return Conversation((Message("user", parts),))


def moderator(**channel: object) -> MediaModerator:
    load: Callable[[], MediaGuard] = lambda: load_media_guard("scripted-media")  # noqa: E731
    return MediaModerator(Moderator([ScriptedGuard()]), MediaChannel(**({"load": load} | channel)))  # type: ignore[arg-type]


def test_words_and_pictures_of_a_message_are_judged_together() -> None:
    conversations = [
        user(TextPart("hello"), BLUE),
        user(TextPart("hello"), RED),
        user(TextPart("TRIGGER"), BLUE),
        user(BLUE),
        user(RED, BLUE),
        Conversation.user("hello"),
    ]
    decisions = moderator().check_many(conversations)
    assert [decision.action for decision in decisions] == ["allow", "block", "block", "allow", "block", "allow"]
    assert [[v.guard for v in decision.verdicts] for decision in decisions] == [
        ["scripted", "scripted-media"],
        ["scripted", "scripted-media"],
        ["scripted", "scripted-media"],
        ["scripted-media"],
        ["scripted-media", "scripted-media"],
        ["scripted"],
    ]


def test_pictures_of_earlier_turns_do_not_keep_a_reply_from_being_judged() -> None:
    conversation = Conversation((Message("user", (RED,)), Message.of("assistant", "TRIGGER")))
    (both,) = moderator().check_both([conversation])
    assert {target: decision.action for target, decision in both.items()} == {"prompt": "block", "response": "block"}
    assert [v.guard for v in both["response"].verdicts] == ["scripted"]


def test_sound_beside_a_picture_is_not_passed_over() -> None:
    (decision,) = moderator().check_many([user(BLUE, AudioPart("AA==", "wav"))])
    assert decision.action == "block"
    assert decision.flagged is None


def test_what_cannot_be_read_or_judged_is_blocked() -> None:
    def missing() -> MediaGuard:
        raise MissingDependencyError("not installed", hint="install it")

    for part in (ImagePart("data:image/png;base64,AAAA"), ImagePart("secret.png"), ImagePart("http://127.0.0.1/a.png")):
        (decision,) = moderator().check_many([user(part)])
        assert (decision.action, decision.flagged, decision.verdicts[0].status) == ("block", None, "rejected")
    (decision,) = moderator(load=missing).check_many([user(BLUE)])
    assert decision.verdicts[0].detail == "not installed (install it)"


def test_a_path_is_followed_under_the_allowed_folder(tmp_path: Path) -> None:
    PIL_Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    (decision,) = moderator(access=MediaAccess(root=tmp_path)).check_many([user(ImagePart("a.png"))])
    assert decision.flagged


class Reader:
    name = "writing"

    def __init__(self, words: str | None) -> None:
        self.words = words

    def read(self, data: bytes) -> str:
        if self.words is None:
            raise RuntimeError("broken")
        return self.words


@pytest.mark.parametrize(
    ("words", "action"), [("TRIGGER", "block"), ("hello", "allow"), ("", "allow"), (None, "block")]
)
def test_words_that_a_reader_finds_in_a_picture_are_judged_as_text(words: str | None, action: str) -> None:
    (decision,) = moderator(readers=[Reader(words)]).check_many([user(BLUE)])
    assert decision.action == action
    if words:
        assert decision.verdicts[-1].guard == "scripted:writing"


def test_a_picture_alone_is_decided_with_the_scores_of_its_frames() -> None:
    data = base64.b64decode(RED.url.partition(",")[2])
    decision, found = moderator().check_media(data)
    assert decision.action == "block"
    assert [frame.score for frame in found.frames] == [1.0]
