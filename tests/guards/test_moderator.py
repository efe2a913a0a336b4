"""The moderator survives its guards and fails closed."""

import pytest

from corral.core.errors import PolicyError
from corral.data.messages import Conversation
from corral.guards.base import Status
from corral.guards.moderator import Moderator
from corral.guards.policy import Action, Policy
from corral.guards.scripted import ScriptedGuard


class BrokenGuard:
    """Answers both questions with whatever it was given."""

    name, revision, taxonomy = "broken", "0", ""

    def __init__(self, answer):
        self.answer = answer

    def classify(self, conversations, *, target="auto"):
        return self.answer

    def classify_both(self, conversations):
        return self.answer


SAFE, BAD, BOOM = Conversation.user("hello"), Conversation.user("TRIGGER"), Conversation.user("BOOM")


def test_it_blocks_what_is_flagged_and_allows_the_rest():
    moderator = Moderator([ScriptedGuard()])
    assert moderator.check(SAFE).action is Action.ALLOW
    assert moderator.check(BAD).action is Action.BLOCK
    assert [d.flagged for d in moderator.check_many([SAFE, BAD])] == [False, True]


@pytest.mark.parametrize("fault", ["raise", "short", "error", "timeout"])
def test_a_failing_conversation_is_blocked_and_its_neighbours_are_judged(fault):
    moderator = Moderator([ScriptedGuard(faults={"BOOM": fault})])
    decisions = moderator.check_many([SAFE, BOOM, BAD])
    assert [d.action for d in decisions] == [Action.ALLOW, Action.BLOCK, Action.BLOCK]
    assert [d.flagged for d in decisions] == [False, None, True]
    both = moderator.check_both([SAFE, BOOM, BAD])
    assert [answer["prompt"].flagged for answer in both] == [False, None, True]


@pytest.mark.parametrize("answer", [None, 7, [], ["yes"], [{}], [None], [{"prompt": "yes"}]])
def test_answers_that_are_no_verdicts_are_errors(answer):
    moderator = Moderator([BrokenGuard(answer)])
    for decision in (moderator.check(SAFE), moderator.check_both([SAFE])[0]["prompt"]):
        assert decision.action is Action.BLOCK
        assert decision.flagged is None
        assert decision.verdicts[0].status is Status.ERROR


def test_a_verdict_on_the_other_target_is_an_error():
    about_the_prompt = ScriptedGuard().classify([SAFE])
    decision = Moderator([BrokenGuard(about_the_prompt)]).check(Conversation.exchange("a", "b"))
    assert decision.flagged is None


def test_what_went_wrong_is_told_without_the_text():
    class Leaky(BrokenGuard):
        def classify(self, conversations, *, target="auto"):
            raise ValueError(conversations[0].messages[0].text)

    (verdict,) = Moderator([Leaky(None)]).check(BAD).verdicts
    assert "ValueError" in verdict.detail
    assert "TRIGGER" not in verdict.detail


def test_an_interrupt_is_not_swallowed():
    class Interrupted(BrokenGuard):
        def classify(self, conversations, *, target="auto"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Moderator([Interrupted(None)]).check(SAFE)


def test_several_guards_are_all_asked():
    strict = ScriptedGuard(("hello",), name="strict")
    decision = Moderator([ScriptedGuard(), strict]).check(SAFE)
    assert decision.action is Action.BLOCK
    assert [v.flagged for v in decision.verdicts] == [False, True]
    assert decision.reasons == ("strict:prompt.harm:block",)


def test_both_targets_are_decided_and_an_absent_one_is_absent():
    answers = Moderator([ScriptedGuard()]).check_both([Conversation.exchange("hi", "TRIGGER"), SAFE])
    assert {t: d.action for t, d in answers[0].items()} == {"prompt": Action.ALLOW, "response": Action.BLOCK}
    assert list(answers[1]) == ["prompt"]


def test_no_conversations_need_no_guard():
    assert Moderator([BrokenGuard(None)]).check_many([]) == []


@pytest.mark.parametrize(
    ("guards", "policy"),
    [
        ([], {}),
        ([ScriptedGuard(), ScriptedGuard()], {}),
        ([ScriptedGuard()], {"guards": ["scripted", "default"]}),
    ],
)
def test_guards_that_do_not_fit_the_policy_are_refused(guards, policy):
    with pytest.raises(PolicyError, match="guards"):
        Moderator(guards, Policy.load(policy))


def test_category_rules_that_no_guard_could_meet_are_refused():
    policy = Policy.load({"categories": {"llama_guard_3/S9": {"action": "flag"}}})
    with pytest.raises(PolicyError, match="categories"):
        Moderator([ScriptedGuard()], policy)
    Moderator([ScriptedGuard(categories={"gun": "llama_guard_3/S9"})], policy)
