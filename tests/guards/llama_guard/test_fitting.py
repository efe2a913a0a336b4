"""Long conversations: the judged message is read whole, the oldest turns go first, and every prompt fits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.core.errors import ConfigError
from corral.guards.llama_guard.fitting import Fitter
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.guards.prompted.framing import framed
from corral.guards.prompted.meters import ByteMeter, TokenMeter
from corral.guards.prompted.turns import Turn

POLICY = PolicyPrompt.of("3", {"Fraud": ""})
METER = ByteMeter()
FIXED = METER.length(framed(POLICY.render([Turn("User", "")]), "llama_3"))
ROLES = ("User", "Agent")


def fitter(room=200, **options):
    return Fitter(POLICY, METER, frame="llama_3", window=FIXED + room, **options)


def turns_of(texts):
    return [Turn(ROLES[i % 2], text) for i, text in enumerate(texts)]


def test_what_fits_is_one_window():
    turns = turns_of(["a", "b", "c"])
    assert fitter().fit(turns).windows == (tuple(turns),)
    assert fitter().fit(turns).context_dropped == 0


@settings(max_examples=60)
@given(st.lists(st.text(min_size=1, max_size=300), min_size=1, max_size=5))
def test_every_prompt_fits_and_every_character_is_judged(texts):
    turns = turns_of(texts)
    fitted = fitter().fit(turns)
    position = 0
    for window in fitted.windows:
        assert METER.length(framed(POLICY.render(window), "llama_3")) <= FIXED + 200
        assert [turn.role for turn in window] == [ROLES[i % 2] for i in range(len(window))] or len(window) == 1
        piece = window[-1].text
        start = texts[-1].find(piece, 0)
        assert start >= 0
        assert window[-1].role == turns[-1].role
        while start != -1 and start + len(piece) <= position:
            start = texts[-1].find(piece, start + 1)
        assert start <= position
        position = max(position, start + len(piece))
    assert position == len(texts[-1])


def test_the_oldest_turns_are_dropped_first_and_counted():
    turns = turns_of(["o" * 90, "p" * 90, "n" * 40, "m" * 20, "judged"])
    fitted = fitter().fit(turns)
    (window,) = fitted.windows
    assert window[-3:] == tuple(turns[-3:])
    assert fitted.context_dropped == sum(len(t.text) for t in turns) - sum(len(t.text) for t in window)
    assert fitted.context_dropped > 0


def test_a_long_reply_keeps_the_end_of_its_prompt_in_every_window():
    fitted = fitter().fit(turns_of(["question " * 40 + "END?", "reply " * 200]))
    assert len(fitted.windows) > 5
    assert all(window[0].role == "User" and window[0].text.endswith("END?") for window in fitted.windows)


def test_windows_overlap_by_what_was_asked():
    text = "".join(chr(0x100 + i) for i in range(300))  # all different, so that pieces can be placed
    windows = fitter(overlap=40).fit([Turn("User", text)]).windows
    pieces = [text.index(window[-1].text) for window in windows], [len(window[-1].text) for window in windows]
    shared = [s + n - t for s, n, t in zip(pieces[0], pieces[1], pieces[0][1:], strict=False)]
    assert min(shared) >= 20  # 40 bytes of two-byte characters


def test_a_policy_without_room_for_a_message_is_refused():
    with pytest.raises(ConfigError, match="no room"):
        fitter(room=10)
    with pytest.raises(ConfigError, match="overlap"):
        fitter(overlap=500)


def test_control_tokens_spelled_in_a_text_are_counted_by_their_bytes(byte_engine):
    meter = TokenMeter(byte_engine.chat)
    assert len(meter.spans("<|eot_id|>")) == len("<|eot_id|>")
    assert meter.spans("né") == [(0, 1), (1, 2), (1, 2)]
