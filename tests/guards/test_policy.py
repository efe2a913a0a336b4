"""A policy turns verdicts into decisions, and says which field is wrong when it cannot be read."""

import itertools

import pytest

from corral.core.errors import NotFoundError, PolicyError
from corral.guards.base import Status, Verdict
from corral.guards.policy import Action, Policy

S6, S9, S10 = (f"llama_guard_3/S{n}" for n in (6, 9, 10))


def verdict(p_harm=0.0, *, target="prompt", guard="g", **scores):
    return Verdict(target, guard, "r", flagged=(p_harm or 0) > 0.5, p_harm=p_harm, **scores)


def failed(status=Status.ERROR, guard="g"):
    return Verdict.failed("prompt", guard, "r", status, "why")


def action(policy, *verdicts):
    return Policy.load(policy).decide(verdicts).action.value


def test_the_default_policy_acts_at_one_half():
    policy = Policy.default()
    assert policy.decide([verdict(0.49)]).action is Action.ALLOW
    assert policy.decide([verdict(0.5)]).action is Action.BLOCK
    assert policy.decide([verdict(0.5, target="response")]).action is Action.BLOCK
    assert policy.decide([verdict(0.1, p_attack=0.9)]).action is Action.FLAG
    refused = policy.decide([verdict(0.1, target="response", p_refusal=0.9)])
    assert (refused.action, refused.flagged) == (Action.ALLOW, False)


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.OK])
def test_a_missing_verdict_blocks_by_default(status):
    decision = Policy.default().decide([failed(status)])
    assert (decision.action, decision.flagged) == (Action.BLOCK, None)
    assert decision.reasons == (f"g:{status}:block",)


@pytest.mark.parametrize("on_error", list(Action))
def test_the_policy_says_what_a_missing_verdict_means(on_error):
    policy = Policy.load({"on_error": on_error.value})
    for verdicts in ([failed()], [failed(), verdict(0.1, guard="h")], []):
        decision = policy.decide(verdicts)
        assert (decision.action, decision.flagged) == (on_error, None)


def test_a_finding_outlives_another_guards_failure():
    decision = Policy.load({"on_error": "undecided", "prompt": {"action": "flag"}}).decide([failed(), verdict(0.9)])
    assert (decision.action, decision.flagged) == (Action.FLAG, True)


@pytest.mark.parametrize("order", list(itertools.permutations([0.9, 0.1, None])))
def test_the_most_severe_action_wins_in_any_order(order):
    verdicts = [failed(guard="e") if p is None else verdict(p, guard=f"g{p}") for p in order]
    assert action({"on_error": "allow"}, *verdicts) == "block"


def test_targets_have_their_own_rules():
    policy = {"prompt": {"threshold": 0.9, "action": "flag"}, "response": {"threshold": 0.2}}
    assert action(policy, verdict(0.8)) == "allow"
    assert action(policy, verdict(0.95)) == "flag"
    assert action(policy, verdict(0.3, target="response")) == "block"


def test_a_category_brings_its_own_action():
    policy = {"categories": {S6: {"action": "allow"}, S9: {"action": "flag"}}}
    assert action(policy, verdict(0.9, categories={S6: 0.9})) == "allow"
    assert action(policy, verdict(0.9, categories={S6: 0.9, S9: 0.9})) == "flag"
    assert action(policy, verdict(0.9, categories={S6: 0.9, S10: 0.9})) == "block"
    assert action(policy, verdict(0.9, categories={S6: 0.4})) == "block"
    assert action(policy, verdict(0.9)) == "block"


def test_a_listed_category_counts_on_its_own():
    policy = {"categories": {S10: {"threshold": 0.2, "action": "block"}}}
    assert action(policy, verdict(0.1, categories={S10: 0.25})) == "block"
    assert action(policy, verdict(0.1, categories={S10: 0.1})) == "allow"
    assert action(policy, verdict(0.1, categories={S9: 0.9})) == "allow"


def test_a_permitted_category_is_not_flagged_and_says_why():
    decision = Policy.load({"categories": {S6: {"action": "allow"}}}).decide([verdict(0.9, categories={S6: 0.9})])
    assert (decision.action, decision.flagged) == (Action.ALLOW, False)
    assert decision.reasons == (f"g:{S6}:allow",)


def test_a_guard_without_scores_stands_for_its_own_decision():
    yes, no = (Verdict("prompt", "g", "r", flagged=flagged) for flagged in (True, False))
    assert action({}, yes) == "block"
    assert action({}, no) == "allow"


@pytest.mark.parametrize("on_error", list(Action))
def test_a_question_left_unanswered_is_an_error_where_the_policy_acts_on_it(on_error):
    unread = verdict(0.1, target="response", unanswered=("refusal",))
    assert Policy(on_error=on_error).decide([unread]).reasons == ()
    decision = Policy(refusal={"action": "flag"}, on_error=on_error).decide([unread])
    assert (decision.action, decision.flagged) == (on_error, None)
    assert decision.reasons == (f"g:refusal.unanswered:{on_error}",)
    harmful = verdict(0.9, target="response", unanswered=("refusal",))
    assert Policy(refusal={"action": "flag"}).decide([harmful]).flagged is True


def test_the_hash_changes_with_any_setting_and_only_then():
    same = [Policy.default(), Policy.load({}), Policy.load({"prompt": {"threshold": 0.5}})]
    assert len({policy.hash for policy in same}) == 1
    others = [{"version": "2"}, {"prompt": {"threshold": 0.6}}, {"on_error": "flag"}, {"categories": {S6: {}}}]
    assert len({Policy.load(values).hash for values in ({}, *others)}) == 5


def test_a_decision_as_json_holds_the_hash_and_no_text():
    decision = Policy.default().decide([verdict(0.9)])
    value = decision.to_json()
    assert value["policy_hash"] == Policy.default().hash
    assert value["verdicts"][0]["p_harm"] == 0.9
    assert list(value) == ["action", "flagged", "policy", "policy_hash", "verdicts", "reasons"]


def test_a_policy_is_read_from_yaml(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(
        "id: shop\nguards: [default]\nprompt: {threshold: 0.7, action: flag}\n"
        f"categories:\n  {S9}: {{action: block}}\n"
    )
    policy = Policy.load(path)
    assert (policy.id, policy.guards, policy.prompt.threshold) == ("shop", ("default",), 0.7)
    assert Policy.load(str(path)).hash == policy.hash


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("prompt: {threshold: 1.5}", "prompt.threshold"),
        ("prompt: {threshold: -0.1}", "prompt.threshold"),
        ("prompt: {threshold: .nan}", "prompt.threshold"),
        ("prompt: {threshold: true}", "prompt.threshold"),
        ("prompt: {threshold: .inf}", "prompt.threshold"),
        ("prompt: {action: undecided}", "prompt.action"),
        ("prompt: {action: explode}", "prompt.action"),
        ("on_error: ignore", "on_error"),
        ("guards: []", "guards"),
        ("guards: ['']", "guards"),
        ("guards: [a, a]", "guards"),
        ("taxonomy: llama_guard_33", "taxonomy"),
        ("categories: {llama_guard_3/S99: {action: block}}", "llama_guard_3/S99"),
        ("categories: {S9: {action: block}}", "S9"),
        ("categories: {llama_guard_2/S9: {action: block}}", "llama_guard_2/S9"),
        ("promt: {threshold: 0.5}", "promt"),
        ("prompt: {treshold: 0.5}", "treshold"),
        ("prompt: {threshold: 0.5}\nprompt: {threshold: 0.9}", "prompt"),
        ("id: ''", "id"),
        ("- a list", "key: value"),
        ("prompt: [", "YAML"),
    ],
)
def test_a_policy_that_cannot_be_applied_names_file_and_field(tmp_path, text, field):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    assert field in str(caught.value)
    assert "policy.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        Policy.load(tmp_path / "nowhere.yaml")
