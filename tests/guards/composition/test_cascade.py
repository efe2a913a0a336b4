"""A cascade says what the cheap guard says outside its band and what the costly one says inside, and fails closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError
from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.base import Guard, Status, Verdict
from corral.guards.composition.cascade import Band, CascadeGuard
from corral.guards.composition.verdict import ComposedVerdict
from corral.guards.scripted import ScriptedGuard

BAND = Band(low=0.2, high=0.8)
SCORES = st.lists(st.floats(0, 1), min_size=0, max_size=12)


class Scores:
    """A guard that reads its score from the text, at a place of its own (`0.3|0.9`), and counts what it is asked."""

    taxonomy = "llama_guard_3"
    revision = "1"

    def __init__(self, name: str, place: int) -> None:
        self.name = name
        self._place = place
        self.asked: list[str] = []

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        return [self._verdict(each, each.target(target)) for each in conversations]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        both: tuple[Target, ...] = ("prompt", "response")
        return [{t: self._verdict(c, t) for t in both if c.judged_index(t) is not None} for c in conversations]

    def _verdict(self, conversation: Conversation, target: Target) -> Verdict:
        index = conversation.judged_index(target)
        assert index is not None
        text = conversation.messages[index].text
        self.asked.append(text)
        p = float(text.split("|")[self._place])
        return Verdict(target, self.name, self.revision, flagged=p >= 0.5, p_harm=p, latency_ms=10.0**self._place)


def talk(cheap: float, costly: float) -> Conversation:
    return Conversation.user(f"{cheap!r}|{costly!r}")


def cascade(band: Band = BAND) -> tuple[CascadeGuard, Scores, Scores]:
    cheap, costly = Scores("cheap", 0), Scores("costly", 1)
    return CascadeGuard(cheap, costly, band=band), cheap, costly


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=12), st.floats(0, 1), st.floats(0, 1))
def test_it_is_the_costly_guard_inside_the_band_and_the_cheap_one_outside(
    pairs: list[tuple[float, float]], one: float, other: float
) -> None:
    band = Band(low=min(one, other), high=max(one, other))
    guard, cheap, costly = cascade(band)
    verdicts = guard.classify([talk(*pair) for pair in pairs])
    inside = [band.low <= cheap_p <= band.high for cheap_p, _ in pairs]
    assert [verdict.p_harm for verdict in verdicts] == [
        pair[uncertain] for pair, uncertain in zip(pairs, inside, strict=True)
    ]
    assert [verdict.decided_by for verdict in verdicts] == ["costly" if each else "cheap" for each in inside]
    assert [verdict.flagged for verdict in verdicts] == [verdict.p_harm >= 0.5 for verdict in verdicts]
    assert len(cheap.asked) == len(pairs)
    assert len(costly.asked) == sum(inside)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_neither_order_nor_batch_changes_a_verdict(pairs: list[tuple[float, float]], random) -> None:
    guard, _, _ = cascade()
    talks = [talk(*pair) for pair in pairs]
    together = guard.classify(talks)
    assert [guard.classify([each])[0] for each in talks] == together
    order = list(range(len(talks)))
    random.shuffle(order)
    assert guard.classify([talks[i] for i in order]) == [together[i] for i in order]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), max_size=8))
def test_prompt_and_response_in_one_call_are_judged_as_they_are_alone(rows: list[tuple[float, ...]]) -> None:
    guard, _, costly = cascade()
    talks = [Conversation.exchange(f"{a!r}|{b!r}", f"{c!r}|{d!r}") for a, b, c, d in rows]
    together = guard.classify_both(talks)
    asked = len(costly.asked)
    both: tuple[Target, ...] = ("prompt", "response")
    for target in both:
        assert [answers[target] for answers in together] == guard.classify(talks, target=target)
    assert len(costly.asked) == 2 * asked


def test_time_and_windows_are_those_of_who_was_asked() -> None:
    guard, _, _ = cascade()
    alone, both = guard.classify([talk(0.1, 0.9), talk(0.5, 0.9)])
    assert (alone.latency_ms, alone.windows) == (1.0, 1)
    assert (both.latency_ms, both.windows) == (11.0, 2)
    assert [part.guard for part in both.parts] == ["cheap", "costly"]
    assert [part.verdict.p_harm for part in both.parts] == [0.5, 0.9]


class Broken:
    """A guard that fails in one way, on texts that say so; otherwise harmless."""

    taxonomy = ""
    revision = "1"

    def __init__(self, name: str, p: float) -> None:
        self.name = name
        self._p = p

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        verdicts = []
        for each in conversations:
            text = each.messages[-1].text
            chosen = text.partition(f"{self.name}=")[2].partition(" ")[0] or "ok"
            if chosen == "count":
                return []
            if chosen == "raises":
                raise RuntimeError(text)
            verdict = Verdict(each.target(target), self.name, "1", flagged=self._p >= 0.5, p_harm=self._p)
            if chosen == "nan":
                verdict = replace(verdict, p_harm=float("nan"))
            if chosen == "unparseable":
                verdict = Verdict.failed("prompt", self.name, "1", Status.UNPARSEABLE, "no word of it")
            verdicts.append(verdict)
        return verdicts

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        return [{"prompt": verdict} for verdict in self.classify(conversations)]


FAILURES = {"raises": Status.ERROR, "unparseable": Status.UNPARSEABLE, "nan": Status.ERROR, "count": Status.ERROR}


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("costly", ["ok", *FAILURES])
@pytest.mark.parametrize("cheap", ["ok", *FAILURES])
def test_a_failure_of_whoever_was_needed_is_a_failure_of_the_cascade(cheap: str, costly: str, both: bool) -> None:
    guard = CascadeGuard(Broken("cheap", 0.5), Broken("costly", 0.01), band=BAND)
    talks = [Conversation.user(f"say cheap={cheap} costly={costly} "), Conversation.user("fine")]
    verdict, fine = [answers["prompt"] for answers in guard.classify_both(talks)] if both else guard.classify(talks)
    assert isinstance(verdict, ComposedVerdict)
    assert (fine.status, fine.flagged, fine.p_harm) == (Status.OK, False, 0.01)  # takes no other text with it
    failed = cheap if cheap != "ok" else costly
    if failed == "ok":
        assert (verdict.flagged, verdict.decided_by) == (False, "costly")
        return
    assert verdict.status is FAILURES[failed]
    assert (verdict.flagged, verdict.p_harm, verdict.decided_by) == (None, None, None)
    assert verdict.detail is not None
    assert verdict.detail.startswith("cheap: " if cheap != "ok" else "costly: ")
    assert "say" not in verdict.detail  # an exception's message may quote the text
    assert len(verdict.parts) == (1 if cheap != "ok" else 2)


def test_a_costly_guard_that_is_broken_does_not_matter_where_it_is_not_needed() -> None:
    guard = CascadeGuard(Broken("cheap", 0.1), Broken("costly", 0.01), band=BAND)
    (verdict,) = guard.classify([Conversation.user("costly=raises ")])
    assert (verdict.status, verdict.flagged) == (Status.OK, False)


def test_a_guard_without_scores_is_uncertain_of_everything() -> None:
    class YesNo(Broken):
        def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
            return [Verdict("prompt", self.name, "1", flagged=False) for _ in conversations]

    (verdict,) = CascadeGuard(YesNo("cheap", 0), Broken("costly", 0.9), band=BAND).classify([Conversation.user("a")])
    assert (verdict.flagged, verdict.decided_by) == (True, "costly")


def test_answers_that_the_costly_guard_has_not_are_kept_from_the_cheap_one() -> None:
    class Attack(Broken):
        attack: float | None = 0.7
        open_ones: tuple[str, ...] = ()

        def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
            verdicts = super().classify(conversations, target=target)
            return [replace(each, p_attack=self.attack, unanswered=self.open_ones) for each in verdicts]

    talks = [Conversation.user("a")]
    (kept,) = CascadeGuard(Attack("cheap", 0.5), Broken("costly", 0.9), band=BAND).classify(talks)
    assert (kept.p_harm, kept.p_attack) == (0.9, 0.7)
    silent = Attack("cheap", 0.5)
    silent.attack, silent.open_ones = None, ("attack",)
    (left_open,) = CascadeGuard(silent, Broken("costly", 0.9), band=BAND).classify(talks)
    assert left_open.unanswered == ("attack",)
    own = Attack("costly", 0.9)
    own.attack = 0.1
    (costly_knows,) = CascadeGuard(Attack("cheap", 0.5), own, band=BAND).classify(talks)
    assert costly_knows.p_attack == 0.1


def test_it_is_a_guard_with_a_name_and_a_revision_that_covers_parts_and_band() -> None:
    guard, cheap, costly = cascade()
    assert isinstance(guard, Guard)
    assert guard.name == "cascade(cheap,costly)"
    assert guard.taxonomy == "llama_guard_3"
    same = CascadeGuard(cheap, costly, band=Band(low=0.2, high=0.8, split="named", n=3))
    assert guard.revision == same.revision
    others = [
        CascadeGuard(costly, cheap, band=BAND),
        CascadeGuard(cheap, costly, band=Band(low=0.2, high=0.7)),
        CascadeGuard(cheap, ScriptedGuard(name="costly"), band=BAND),
    ]
    assert len({guard.revision, *(other.revision for other in others)}) == 4
    assert others[2].taxonomy == ""  # of two taxonomies neither is always scored


def test_two_parts_of_one_name_and_a_band_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ConfigError, match="two parts are named `scripted`"):
        CascadeGuard(ScriptedGuard(), ScriptedGuard("b"), band=BAND)
    with pytest.raises(ValueError, match="lower end first"):
        Band(low=0.8, high=0.2)


def test_a_verdict_as_json_holds_its_parts() -> None:
    guard, _, _ = cascade()
    values = guard.classify([talk(0.5, 0.9)])[0].to_json()
    assert values["decided_by"] == "costly"
    assert [part["part"] for part in values["parts"]] == ["cheap", "costly"]
    assert values["parts"][1]["p_harm"] == 0.9
