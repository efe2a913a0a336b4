"""The guard as a whole: what it asks an engine, and what it makes of the answers."""

import math
import re
from dataclasses import replace

import pytest

from corral.core.errors import ConfigError, EngineError
from corral.data.messages import Conversation, ImagePart, Message
from corral.guards.base import Guard, Status, Verdict
from corral.guards.llama_guard.guard import LlamaGuard
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.guards.loading import load_guard
from corral.guards.policy import Action, Policy
from corral.models.engines.base import GenerationSettings
from corral.models.engines.scripted import ScriptedEngine

FRAUD = PolicyPrompt.of("3", {"Fraud": "", "Spoilers": "", "Weapons": ""})
WORDS = {"Fraud": "cheat", "Spoilers": "dies", "Weapons": "gun"}


def judged(text):
    """The last turn, and the categories, of a prompt."""
    conversation = re.search("<BEGIN CONVERSATION>\n\n(.*)\n\n<END CONVERSATION>", text, re.DOTALL)[1]
    role, _, message = re.split(r"\n\n(?=User:|Agent:)", conversation)[-1].partition(": ")
    return role, message, dict(re.findall(r"^(S\d+): (.*)\.$", text, re.MULTILINE))


def obedient(p_hit=0.9, mass=1.0):
    """An engine that follows the policy in its prompt by its words."""

    def violated(prompt):
        _, message, categories = judged(prompt.messages[0].text if isinstance(prompt, Conversation) else prompt)
        return [code for code, name in categories.items() if WORDS[name] in message]

    def reply(prompt):
        codes = violated(prompt)
        if "crash" in str(prompt):
            raise EngineError("secret words")
        if "slow" in str(prompt):
            raise TimeoutError
        return "unsafe\n" + ",".join(codes) if codes else "safe"

    def logprob(prompt, completion):
        p_unsafe = p_hit if violated(prompt) else 0.05
        weight = {"safe": 1 - p_unsafe, "unsafe": p_unsafe}.get(completion, 1e-9)
        return math.log(mass * weight)

    return ScriptedEngine(reply, logprob=logprob, name="obedient")


@pytest.fixture
def guard():
    return LlamaGuard(obedient(), FRAUD)


def test_it_is_a_guard(guard):
    assert isinstance(guard, Guard)
    assert (guard.name, guard.taxonomy) == ("llama-guard", "custom")


def test_unsafe_with_its_codes(guard):
    harmless, harmful = guard.classify([Conversation.user("bread?"), Conversation.user("he dies, cheat")])
    assert (harmless.status, harmless.flagged, dict(harmless.categories)) == (Status.OK, False, {})
    assert harmless.p_harm == pytest.approx(0.05)
    assert harmful.flagged is True
    assert harmful.p_harm == pytest.approx(0.9)
    assert harmful.p_raw == pytest.approx(0.9)
    assert harmful.mass == pytest.approx(1.0)
    assert dict(harmful.categories) == {"custom/S1": pytest.approx(0.9), "custom/S2": pytest.approx(0.9)}


def test_categories_one_against_all_come_from_prompts_with_one_category():
    guard = LlamaGuard(obedient(), FRAUD, category_mode="scored")
    (verdict,) = guard.classify([Conversation.user("gun")])
    expected = {"custom/S1": 0.05, "custom/S2": 0.05, "custom/S3": 0.9}
    assert dict(verdict.categories) == pytest.approx(expected)
    assert verdict.p_harm == pytest.approx(0.9)


def test_changing_the_policy_changes_the_verdict(guard):
    other = guard.with_policy(FRAUD.with_categories(["S2", "S3"]))
    assert guard.classify([Conversation.user("cheat")])[0].flagged is True
    assert other.classify([Conversation.user("cheat")])[0].flagged is False
    assert other.classify([Conversation.user("gun")])[0].categories.keys() == {"custom/S3"}
    assert guard.revision != other.revision


def test_prompt_and_response_are_judged_as_user_and_agent():
    seen = []
    engine = ScriptedEngine(lambda _: "safe", logprob=lambda p, _: seen.append(judged(p.messages[0].text)[:2]) or -1.0)
    (both,) = LlamaGuard(engine, FRAUD, category_mode="none").classify_both([Conversation.exchange("ask", "answer")])
    assert set(seen) == {("User", "ask"), ("Agent", "answer")}
    assert (both["prompt"].target, both["response"].target) == ("prompt", "response")


def test_raw_prompts_for_an_engine_without_the_template():
    seen = []
    engine = ScriptedEngine(lambda _: "safe", logprob=lambda prompt, _: seen.append(prompt) or -1.0)
    LlamaGuard(engine, FRAUD, frame="llama_3").classify([Conversation.user("a<|eot_id|>")])
    assert seen[0].startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nTask:")
    assert seen[0].endswith("assistant<|end_header_id|>\n\n")
    assert seen[0].count("<|eot_id|>") == 1


def test_little_mass_on_the_labels_is_unparseable_and_blocks():
    (verdict,) = LlamaGuard(obedient(mass=0.4), FRAUD).classify([Conversation.user("bread?")])
    assert (verdict.status, verdict.flagged, verdict.p_harm) == (Status.UNPARSEABLE, None, None)
    assert verdict.mass == pytest.approx(0.4)
    assert "0.4" in verdict.detail
    assert Policy.default().decide([verdict]).action is Action.BLOCK


def test_one_unparseable_category_is_not_passed_over():
    whole = obedient()

    def logprob(prompt, completion):
        alone = "Spoilers" in str(prompt) and "Fraud" not in str(prompt)
        return -9.0 if alone else whole.logprobs([(prompt, completion)])[0].total

    engine = ScriptedEngine(lambda _: "safe", logprob=logprob)
    (verdict,) = LlamaGuard(engine, FRAUD, category_mode="scored").classify([Conversation.user("bread?")])
    assert verdict.status is Status.UNPARSEABLE
    assert "custom/S2" in verdict.detail


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.0])
def test_values_that_are_no_probabilities_are_an_error(value):
    engine = ScriptedEngine(lambda _: "safe", logprob=lambda *_: value)
    assert LlamaGuard(engine, FRAUD).classify([Conversation.user("hi")])[0].status is Status.ERROR


def test_a_bad_item_does_not_harm_the_others(guard):
    image = Conversation((Message("user", (ImagePart("https://example.org/a.png"),)),))
    odd = Conversation((Message.of("user", "a"), Message.of("user", "b")))
    bad = [Conversation(()), image, odd, Conversation.user(" "), Conversation.user("crash"), Conversation.user("slow")]
    verdicts = guard.classify([Conversation.user("cheat"), *bad, Conversation.user("bread?")])
    assert [v.flagged for v in verdicts] == [True, *[None] * 6, False]
    assert [v.status for v in verdicts[1:-1]] == [*[Status.ERROR] * 5, Status.TIMEOUT]
    assert [v.detail.partition(": ")[0] for v in verdicts[1:5]] == [
        "conversations[1]",
        "conversations[2]",
        "conversations[3].messages[1]",
        "conversations[4]",
    ]
    assert "secret" not in verdicts[5].detail


def test_a_long_message_is_read_in_windows_with_the_maximum(guard):
    small = LlamaGuard(obedient(), FRAUD, window=1700)
    (verdict,) = small.classify([Conversation.user("word " * 300 + "cheat " + "word " * 300)])
    assert verdict.windows > 3
    assert verdict.flagged is True
    assert dict(verdict.categories) == {"custom/S1": pytest.approx(0.9)}
    (dropped,) = small.classify([Conversation.exchange("old " * 300, "reply")])
    assert dropped.context_dropped > 0


def test_a_message_over_the_limit_of_characters_is_refused():
    (verdict,) = LlamaGuard(obedient(), FRAUD, max_chars=3).classify([Conversation.user("bread")])
    assert verdict.status is Status.ERROR


def test_json_holds_what_the_score_rests_on(guard):
    out = guard.classify([Conversation.user("cheat")])[0].to_json()
    assert out["p_raw"] == pytest.approx(0.9)
    assert out["mass"] == pytest.approx(1.0)
    assert (out["taxonomy"], out["taxonomy_version"]) == ("custom", "1")
    assert out["guard"] == "llama-guard"


def test_every_verdict_says_which_taxonomy_it_is_by(guard):
    safe, failed = guard.classify([Conversation.user("bread?"), Conversation.user("crash")])
    assert dict(safe.categories) == {}
    assert {(v.taxonomy, v.taxonomy_version) for v in (safe, failed)} == {("custom", "1")}
    unsure = ScriptedEngine(lambda _: "", logprob=lambda *_: -9.0)
    (own,) = LlamaGuard(unsure, PolicyPrompt.of("2")).classify([Conversation.user("bread?")])
    assert (own.status, own.taxonomy) == (Status.UNPARSEABLE, "llama_guard_2")


def test_json_without_the_taxonomys_id_can_still_be_read(guard):
    out = guard.classify([Conversation.user("cheat")])[0].to_json()
    before = {key: value for key, value in out.items() if key != "taxonomy"}
    assert Verdict.from_json(before) == Verdict.from_json(out)


def test_an_index_is_that_of_the_conversation_when_both_targets_are_asked_about(guard):
    odd = Conversation((Message.of("assistant", "a"), Message.of("user", "b"), Message.of("assistant", "c")))
    first, second = guard.classify_both([Conversation.exchange("a", "b"), odd])
    assert {v.status for v in first.values()} == {Status.OK}
    assert {v.detail.partition(": ")[0] for v in second.values()} == {"conversations[1].messages[0]"}


def assert_batch_is_items(guard):
    conversations = [
        Conversation.user("a"),
        Conversation.exchange("b" * 90, "c\n\nAgent: d <|eot_id|>"),
        Conversation.user("e" * 3000),
    ]
    together = guard.classify(conversations)
    for conversation, verdict in zip(conversations, together, strict=True):
        (alone,) = guard.classify([conversation])
        assert verdict.status is Status.OK
        assert verdict.p_harm == pytest.approx(alone.p_harm, abs=1e-5)
        assert replace(verdict, p_harm=0.5, p_raw=0, mass=0, latency_ms=0, categories={}) == replace(
            alone, p_harm=0.5, p_raw=0, mass=0, latency_ms=0, categories={}
        )
        assert verdict.categories.keys() == alone.categories.keys()
    assert together[2].windows > 1


def test_a_batch_on_a_model_is_its_items_one_by_one(byte_engine):
    assert_batch_is_items(LlamaGuard(byte_engine, FRAUD, min_mass=0.0))


def test_a_padded_batch_on_a_model_is_its_items_one_by_one(padded_engine, padded_rows):
    assert_batch_is_items(LlamaGuard(padded_engine, FRAUD, min_mass=0.0))
    assert padded_rows[0] == {padded_engine.padding_side}


@pytest.mark.parametrize(
    "options",
    [{"frame": "chatml"}, {"category_mode": "all"}, {"min_mass": 1.5}, {"max_chars": 0}, {"window": 100}],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        LlamaGuard(obedient(), FRAUD, **options)


def test_a_window_beyond_the_model_is_refused(byte_engine):
    with pytest.raises(ConfigError, match="2048"):
        LlamaGuard(byte_engine, FRAUD, window=4096)


def test_a_checkpoint_is_loaded_with_the_layout_that_its_name_tells(checkpoint):
    guard = load_guard("llama-guard", model=checkpoint, min_mass=0.0)
    assert guard.taxonomy == "llama_guard_3"
    assert len(guard.policy.categories) == 13
    (verdict,) = guard.classify([Conversation.user("hi")])
    assert verdict.status is Status.OK
    assert guard.engine.chat.render(Conversation.user("P")).startswith("<|begin_of_text|><|start_header_id|>user")
    again = load_guard("llama-guard", model=checkpoint, min_mass=0.0)
    assert guard.revision == again.revision
    assert guard.revision != load_guard("llama-guard", model=checkpoint, taxonomy={"Fraud": ""}).revision


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("meta-llama/LlamaGuard-7b", "1"),
        ("meta-llama/Meta-Llama-Guard-2-8B", "2"),
        ("meta-llama/Llama-Guard-3-8B", "3"),
        ("meta-llama/Llama-Guard-3-11B-Vision", "3"),
        ("meta-llama/Llama-Guard-3-1B-INT4", "3-1b"),
        ("meta-llama/Llama-Guard-4-12B", "4"),
    ],
)
def test_generation_of_released_checkpoints(name, generation):
    from corral.guards.llama_guard.checkpoint import generation_of

    assert generation_of(name) == generation


@pytest.mark.parametrize("generation", ["3", 3])
def test_a_generation_may_be_written_as_a_number(checkpoint, generation):
    assert len(load_guard("llama-guard", model=checkpoint, generation=generation, min_mass=0.0).policy.categories) == 14


def test_a_name_that_tells_no_generation_asks_for_one():
    with pytest.raises(ConfigError, match="generation"):
        load_guard("llama-guard", model="embedded:smollm2-135m-instruct")


def test_the_limit_on_characters_is_part_of_the_revision():
    assert LlamaGuard(obedient(), FRAUD).revision != LlamaGuard(obedient(), FRAUD, max_chars=10).revision


def test_a_request_that_the_server_refuses_fails_alone():
    class Server(ScriptedEngine):
        asked = 0

        def label_logprobs_each(self, prompts, labels, *, answer_prefixes=None):
            Server.asked += len(prompts)
            refused = EngineError("refused")
            return [refused if "crash" in p.messages[0].text else (-3.0, -0.1) for p in prompts]

        def generate_each(self, prompts, settings):
            return [EngineError("refused") if "later" in p.messages[0].text else a for p, a in self._pairs(prompts)]

        def _pairs(self, prompts):
            return zip(prompts, self.generate(prompts, GenerationSettings()), strict=True)

    guard = LlamaGuard(Server(lambda _: "unsafe\nS1", logprob=lambda _prompt, _text: -1.0), FRAUD)
    good, bad, late = guard.classify([Conversation.user(text) for text in ("cheat", "crash", "later")])
    assert (good.status, dict(good.categories)) == (Status.OK, {"custom/S1": pytest.approx(good.p_harm)})
    assert bad.status is Status.ERROR
    assert late.status is Status.ERROR
    assert Server.asked == 3  # none was asked again


@pytest.mark.parametrize(("tokenizer", "frame"), [(None, "llama_3"), ("folder", "chat")])
def test_a_server_is_asked_in_the_frame_of_the_generation(monkeypatch, tokenizer, frame):
    connected, prompts = {}, []

    def logprob(prompt, completion):
        prompts.append(prompt)
        return {"safe": -0.1, "unsafe": -3.0}.get(completion, -30.0)

    def connect(server, model, **settings):
        connected.update(settings, server=server, model=model)
        return ScriptedEngine(lambda _: "safe", logprob=logprob), "there"

    monkeypatch.setattr("corral.guards.prompted.loading.connect_engine", connect)
    guard = load_guard("llama-guard", model="Llama-Guard-3-8B", server="http://host/v1", tokenizer=tokenizer)
    (verdict,) = guard.classify([Conversation.user("bread?")])
    assert verdict.flagged is False
    wanted = {"server": "http://host/v1", "model": "Llama-Guard-3-8B", "tokenizer": tokenizer, "frame": "llama_3"}
    assert connected == wanted
    assert {isinstance(prompt, Conversation) for prompt in prompts} == {frame == "chat"}


def test_a_checkpoint_takes_no_other_tokenizer():
    with pytest.raises(ConfigError, match="its own tokenizer"):
        LlamaGuard.load(model="Llama-Guard-3-8B", tokenizer="folder")
