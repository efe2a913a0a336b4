"""Long exchanges: request and reply are read whole, in one prompt wherever they fit it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.core.errors import ConfigError
from corral.guards.prompted.exchanges import Exchange
from corral.guards.prompted.framing import framed
from corral.guards.prompted.meters import ByteMeter
from corral.guards.prompted.turns import Turn
from corral.guards.wildguard.escaping import escape
from corral.guards.wildguard.fitting import wildguard_fitter
from corral.guards.wildguard.prompts import render

METER = ByteMeter()
BARE = METER.length(framed(render(Exchange("", "", (Turn("User", ""),))), "wildguard"))
CONTEXT = (Turn("User", "u" * 60), Turn("Agent", "a" * 60), Turn("User", "v" * 20), Turn("Agent", "b" * 20))


def fitter(room=200, **options):
    return wildguard_fitter(METER, frame="wildguard", window=BARE + 10 + room, answer_tokens=10, **options)


def test_what_fits_is_one_prompt_for_both():
    exchange = Exchange("ask", "answer", CONTEXT[2:])
    fitted = fitter().fit(exchange)
    assert fitted["prompt"] is fitted["response"]
    assert fitted["prompt"].windows == (exchange,)
    assert fitted["prompt"].context_dropped == 0


def test_older_turns_go_before_request_or_reply_are_cut():
    fitted = fitter().fit(Exchange("p" * 40, "r" * 40, CONTEXT))
    (window,) = fitted["response"].windows
    assert (window.prompt, window.response) == ("p" * 40, "r" * 40)
    assert len(window.context) < len(CONTEXT)
    assert fitted["response"].context_dropped == 160 - sum(len(turn.text) for turn in window.context)


def test_what_does_not_fit_together_is_read_apart():
    fitted = fitter().fit(Exchange("p" * 90, "r" * 300))
    assert [w.response for w in fitted["prompt"].windows] == [None]
    assert len(fitted["response"].windows) > 1
    assert all(w.prompt and set(w.prompt) == {"p"} and set(w.response) == {"r"} for w in fitted["response"].windows)


def test_a_request_alone_is_judged_alone():
    assert fitter().fit(Exchange("ask")).keys() == {"prompt"}


@settings(max_examples=50)
@given(st.text(max_size=400), st.text(min_size=1, max_size=400), st.lists(st.text(max_size=80), max_size=3))
def test_every_prompt_fits_and_every_character_is_judged(prompt, response, earlier):
    context = tuple(Turn(("User", "Agent")[i % 2], text) for i, text in enumerate(earlier[: len(earlier) // 2 * 2]))
    fitted = fitter().fit(Exchange(prompt, response, context))
    for target, text in (("prompt", escape(prompt)), ("response", escape(response))):
        pieces = [getattr(window, target) for window in fitted[target].windows]
        covers(text, pieces)
        for window in fitted[target].windows:
            assert METER.length(framed(render(window), "wildguard")) + 10 <= BARE + 10 + 200


def covers(text, pieces):
    """Pieces are consecutive overlapping parts of the text, up to its end."""
    position = 0
    for piece in pieces:
        starts = [i for i in range(len(text) - len(piece) + 1) if text.startswith(piece, i)]
        reachable = [i for i in starts if i <= position]
        assert reachable
        position = max(position, max(reachable) + len(piece))
    assert position == len(text)


@pytest.mark.parametrize("options", [{"room": 20}, {"overlap": 190}])
def test_no_room_is_refused(options):
    with pytest.raises(ConfigError):
        fitter(**options)
