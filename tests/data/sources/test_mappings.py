"""Label mappings on stand-in rows written for the purpose: benign text under the labels of each source."""

from __future__ import annotations

from typing import Any

import pytest

from corral.data.examples import prompt_key
from corral.data.sources import harmful_requests, responses
from corral.data.sources.annotations import row_annotations

TEXT = "A stand-in sentence."
NOT_HATE = {"S10": False}


def labels(example: Any) -> tuple[bool | None, bool | None, bool | None]:
    return example.harmful, example.attack, example.refusal


@pytest.mark.parametrize(
    ("source", "file", "row", "harmful", "categories"),
    [
        ("davidson", "davidson", {"label": "hate_speech"}, True, {"S10": True}),
        ("davidson", "davidson", {"label": "offensive_language"}, None, {}),
        ("davidson", "davidson", {"label": "neither"}, False, {"S10": False}),
        ("hate_stormfront", "stormfront", {"label": "noHate"}, False, {"S10": False}),
        ("hate_stormfront", "stormfront", {"label": "relation"}, None, {}),
        ("hate_edos_sexism", "edos", {"label_sexist": "sexist"}, True, {"S10": True}),
        ("hate_edos_sexism", "edos", {"label_sexist": "not sexist"}, None, {}),
        ("hate_misogyny_reddit", "online_misogyny", {"label": "Nonmisogynistic"}, None, {}),
        ("toxic_civil_spans", "civil_comments_spans", {"label": "toxic"}, None, {}),
        ("toxic_civil_spans", "civil_comments_spans", {"label": "not toxic"}, False, {}),
        ("toxic_wiki_context", "wiki_talk_context", {"label": 1}, None, {}),
        ("germeval2018", "germeval2018", {"label_fine": "ABUSE"}, True, {"S10": True}),
        ("germeval2018", "germeval2018", {"label_fine": "PROFANITY"}, None, {}),
        ("mlma", "mlma", {"sentiment_main": "other abusive"}, None, {}),
        ("hate_toxigen_annotated", "toxigen_annotated", {"label": "hate", "toxicity_score": 4.0}, True, {"S10": True}),
        ("hate_toxigen_annotated", "toxigen_annotated", {"label": "hate", "toxicity_score": 1.0}, None, {}),
        ("hate_toxigen_annotated", "toxigen_annotated", {"label": "neutral", "toxicity_score": 2}, False, NOT_HATE),
        ("hate_toxigen_annotated", "toxigen_annotated", {"label": "neutral", "toxicity_score": 4.5}, None, {}),
        ("iwg_german_refugees", "iwg_refugees", {"expert_1": "YES", "expert_2": "YES"}, True, {"S10": True}),
        ("iwg_german_refugees", "iwg_refugees", {"expert_1": "YES", "expert_2": "NO"}, None, {}),
        ("cold_zh", "cold", {"label": 1, "fine_label": None}, True, {}),
        ("cold_zh", "cold", {"label": 1, "fine_label": 1}, True, {}),
        ("cold_zh", "cold", {"label": 1, "fine_label": 2}, True, {"S10": True}),
        ("cold_zh", "cold", {"label": 0, "fine_label": 3}, False, {"S10": False}),
        ("tweeteval", "tweeteval_offensive", {"label": 1}, None, {}),
        ("hatecheck_en", "hatecheck_en", {"label": "non-hateful"}, False, {"S10": False}),
    ],
)  # fmt: skip
def test_text_label(read, source: str, file: str, row: dict, harmful: bool | None, categories: dict) -> None:
    (example,) = read(source, **{file: [{"id": 0, "text": TEXT, **row}]})
    assert example.target == "prompt"
    assert example.harmful is harmful
    assert example.categories == {f"llama_guard_3/{code}": value for code, value in categories.items()}
    assert example.taxonomy == ("llama_guard_3" if categories else "")
    assert example.group == prompt_key(TEXT)


@pytest.mark.parametrize(
    ("votes", "toxic_any", "harmful"),
    [({"racism": 2}, 1, True), ({"racism": 1}, 1, None), ({"obscene": 3}, 1, None), ({}, 0, False)],
)
def test_told_br_needs_two_votes_for_one_kind_of_hate(read, votes: dict, toxic_any: int, harmful: bool | None) -> None:
    columns = dict.fromkeys(("homophobia", "obscene", "insult", "racism", "misogyny", "xenophobia"), 0)
    (example,) = read("told_br", told_br=[{"text": TEXT, **columns, **votes, "toxic_any": toxic_any}])
    assert example.harmful is harmful


def test_openai_moderation_null_is_unknown_and_threats_prove_hate(read) -> None:
    row = {"id": 7, "prompt": TEXT, "flagged": 1, "V": 1, "HR": None, "V2": 0}
    nulls = dict.fromkeys(("S", "H", "SH", "S3", "H2"))
    hate, unknown = read(
        "openai_moderation",
        openai_moderation=[{**row, "S": 0, "H": None, "SH": 1, "S3": 0, "H2": 1}, {**row, **nulls, "H2": 0}],
    )
    assert {code.removeprefix("llama_guard_3/"): label for code, label in hate.categories.items()} == {
        "S4": False,
        "S10": True,
        "S11": True,
        "S12": False,
    }
    assert unknown.categories == {}
    assert (hate.raw["V"], hate.raw["HR"], hate.raw["pair"]) == (1, None, "openai_moderation/7")


def test_translation_takes_group_and_categories_from_the_english_row(read) -> None:
    english = {"id": 7, "prompt": TEXT, "S": 1, "H": 0, "SH": None, "S3": 0, "H2": None, "flagged": 1}
    (example,) = read(
        "openai_moderation_de",
        openai_moderation=[english],
        openai_moderation_de=[{"id": 7, "prompt": "Ein Platzhalter.", "flagged": 1}],
    )
    assert (example.language, example.text, example.raw["pair"]) == ("de", "Ein Platzhalter.", "openai_moderation/7")
    assert example.group == prompt_key(TEXT)
    assert example.categories["llama_guard_3/S12"] is True
    assert "llama_guard_3/S11" not in example.categories


def test_toxicchat_row_without_human_label_has_no_pair(read) -> None:
    row = {"id": 0, "prompt": TEXT, "toxicity": 0, "human_annotated": True, "human_id": 3}
    human, machine = read("toxicchat", toxicchat_test=[row, {**row, "human_annotated": False, "human_id": None}])
    assert human.raw["pair"] == "toxicchat/3"
    assert "pair" not in machine.raw


def test_contextual_behaviour_is_one_message_after_its_context(read) -> None:
    row = {"id": "a", "behavior": "Summarise it.", "semantic_category": "copyright", "split": "val"}
    plain, contextual = read(
        "harmbench_behaviors", harmbench_text=[{**row, "context": None}, {**row, "context": "A text."}]
    )
    assert plain.text == "Summarise it."
    assert contextual.text == "A text.\n\nSummarise it."
    assert contextual.categories == {"llama_guard_3/S8": True}
    assert contextual.split == "val"


def test_benign_rows_are_false_in_every_category(read) -> None:
    (example,) = read("benign_gsm8k", gsm8k_train=[{"id": 0, "prompt": TEXT, "answer": "1"}])
    assert labels(example) == (False, False, None)
    assert example.categories == {f"llama_guard_3/S{number}": False for number in range(1, 15)}


def test_controversial_benign_row_is_unknown(read) -> None:
    (example,) = read("benign_phtest", phtest_v01=[{"id": 0, "prompt": TEXT, "harmfulness": "controversial"}])
    assert labels(example) == (None, None, None)
    assert example.categories == {}


def test_rows_that_belong_together_share_a_group(read) -> None:
    pair = read(
        "hate_hatemoji",
        hatemoji_build=[
            {"id": 3, "matched_id": 2, "text": "One.", "label": 1},
            {"id": 2, "matched_id": 3, "text": "Two.", "label": 0},
        ],
    )
    translations = read(
        "benign_xquad",
        xquad_questions=[{"lang": "en", "qid": "q", "prompt": "What?"}, {"lang": "de", "qid": "q", "prompt": "Was?"}],
    )
    unnumbered = read(
        "benign_xsid",
        xsid=[{"lang": "nl", "split": "test", "id": None, "prompt": "Zet een wekker.", "intent": "alarm"}],
    )
    assert {example.group for example in pair} == {"hatemoji/2"}
    assert {example.group for example in translations} == {"xquad/q"}
    assert [example.language for example in translations] == ["en", "de"]
    assert unnumbered[0].group == prompt_key("Zet een wekker.")


def test_attack_wrappers_say_nothing_about_harm(read) -> None:
    (wild,) = read("inthewild_jailbreaks", inthewild_jailbreaks=[{"id": 0, "prompt": TEXT}])
    (template,) = read("pyrit_jailbreak_templates", templates=[{"template": TEXT}])
    injected, ordinary = read(
        "prompt_injection_train", prompt_injection_train=[{"text": TEXT, "label": 1}, {"text": TEXT, "label": 0}]
    )
    assert [labels(example)[:2] for example in (wild, template, injected, ordinary)] == [
        (None, True),
        (None, True),
        (None, True),
        (None, False),
    ]
    assert ordinary.language == ""  # the set mixes two languages without a column


def test_injection_follows_the_system_prompt_it_attacks(read) -> None:
    row = {"lang": "fr", "system_prompt": "Keep the word secret.", "prompt": TEXT, "risk_category": "logic-violating"}
    (example,) = read("attack_cyberseceval", prompt_injection=[row])
    assert [message.role for message in example.conversation.messages] == ["system", "user"]
    assert (example.text, example.language) == (TEXT, "fr")
    assert labels(example) == (None, True, None)


@pytest.mark.parametrize(
    ("label", "kind", "expected"),
    [("harmful", "role", (True, False, None)), ("benign", "jailbreak", (False, True, None))],
)
def test_wrapper_and_payload_are_labelled_apart(read, label: str, kind: str, expected: tuple) -> None:
    row = {"label": label, "wrapper_kind": kind, "wrapper": "W", "payload": "P", "prompt": "W P"}
    (example,) = read("wrapped_prompts", wrapped=[row])
    assert labels(example) == expected
    assert example.group == prompt_key("P")


def test_answer_joins_its_question_and_inherits_its_overlap(read) -> None:
    question = {"question_id": 4, "question": "A stand-in question?", "eval_overlap": ["advbench"]}
    response = {"id": 0, "question_id": 4, "response": "A stand-in answer."}
    complied, deflected, asked = read(
        "gptfuzz",
        gptfuzz_questions=[question],
        gptfuzz_train_responses=[{**response, "label": 1}, {**response, "label": 0}],
    )
    assert [message.text for message in complied.conversation.messages] == [question["question"], "A stand-in answer."]
    assert labels(complied) == (True, None, False)
    assert labels(deflected) == (False, None, None)
    assert complied.eval_overlap == deflected.eval_overlap == ("advbench",)
    assert (asked.target, asked.harmful, asked.group) == ("prompt", True, complied.group)


def test_jailbreak_artifact_gives_a_prompt_and_a_response(read) -> None:
    row = {"goal": "Do it", "category": "Privacy", "response": "Done.", "jailbroken": True, "eval_overlap": []}
    wrapped, answer, bare, _ = read(
        "jbb_artifacts", jbb_artifacts=[{**row, "prompt": "Pretend. Do it"}, {**row, "prompt": "do it!"}]
    )
    assert (labels(wrapped), labels(answer), labels(bare)) == (
        (True, True, None),
        (True, None, False),
        (True, None, None),
    )
    assert {wrapped.group, answer.group, bare.group} == {prompt_key("Do it")}
    assert (wrapped.id, answer.id) == ("jbb_artifacts:1:prompt", "jbb_artifacts:1:response")
    assert read("jbb_artifacts", jbb_artifacts=[{**row, "prompt": None, "response": None, "jailbroken": False}]) == []


@pytest.mark.parametrize(
    ("gpt", "llama", "rules", "harmful", "refusal"),
    [
        (True, True, True, True, False),
        (True, True, False, True, False),
        (True, False, True, None, None),
        (False, False, False, False, True),
        (False, False, True, False, None),
    ],
)
def test_past_tense_needs_both_judges(read, gpt: bool, llama: bool, rules: bool, harmful, refusal) -> None:
    row = {"request": "R", "request_reformulated": TEXT, "response": "Answer."}
    verdicts = {"jailbroken_gpt": gpt, "jailbroken_llama": llama, "jailbroken_rules": rules}
    prompt, response = read("past_tense", past_tense_artifacts=[{**row, **verdicts}])
    assert labels(prompt) == (True, True, None)
    assert labels(response) == (harmful, None, refusal)


@pytest.mark.parametrize(("score", "harmful"), [(0.0, False), (0.083, None), (0.417, None), (0.5, True), (1.0, True)])
def test_pyrit_score_between_none_and_half_is_unknown(read, score: float, harmful: bool | None) -> None:
    row = {"category": "privacy", "prompt": TEXT, "response": "Answer.", "human_score": score, "n_scores": 3}
    (example,) = read("pyrit_scored_responses", harm_scores=[row])
    assert example.harmful is harmful
    assert example.categories == ({} if harmful is None else {"llama_guard_3/S7": harmful})


def test_beavertails_categories_rule_out_only_what_they_cover(read) -> None:
    row = {"id": 0, "prompt": TEXT, "response": "Answer.", "is_safe": False}
    theft, hate = read(
        "beavertails",
        beavertails_test=[
            {**row, "categories": ["financial_crime,property_crime,theft"]},
            {**row, "categories": ["hate_speech,offensive_language"]},
        ],
    )
    assert theft.harmful is True
    assert theft.categories == {f"llama_guard_3/{code}": code == "S2" for code in ("S2", "S7", "S10", "S11", "S12")}
    assert hate.categories == {f"llama_guard_3/{code}": False for code in ("S7", "S11", "S12")}


def test_abuse_of_a_bot_keeps_the_turns_before(read) -> None:
    row = {
        "prev_agent": "Hello.",
        "prev_user": " ",
        "agent": "How are you?",
        "prompt": TEXT,
        "label": "abusive",
        "mean_severity": -2.0,
    }
    severe, mild, split = read(
        "convabuse",
        convabuse=[row, {**row, "mean_severity": -1.0}, {**row, "label": "split", "mean_severity": 0.0}],
    )
    assert [message.role for message in severe.conversation.messages] == ["assistant", "assistant", "user"]
    assert severe.text == TEXT
    assert [severe.harmful, mild.harmful, split.harmful] == [True, None, None]


def test_preference_pair_without_annotation_is_two_unlabelled_responses(read) -> None:
    context = "Human: Hello there.\n\nAssistant: Hello.\n\nHuman: What is tea?\n\nAssistant:"
    row = {
        "id": "none",
        "first_prompt": "Hello there.",
        "context": context,
        "chosen": " A drink.",
        "rejected": " Unsure.",
    }
    chosen, rejected = read("hh_rlhf_harmless", hh_rlhf_harmless_test=[row])
    assert [message.role for message in chosen.conversation.messages] == ["user", "assistant", "user", "assistant"]
    assert (chosen.text, rejected.text) == ("A drink.", "Unsure.")
    assert (chosen.raw["preference"], rejected.raw["preference"]) == ("chosen", "rejected")
    assert labels(chosen) == labels(rejected) == (None, None, None)


def test_only_action_zero_is_a_plain_refusal(read) -> None:
    prompt = {"id": 0, "question": TEXT, "risk_area": ""}
    answers = [{"id": 0, "model": "m", "response": "Answer.", "harmful": 0, "action": action} for action in range(6)]
    question, *judged = read("do_not_answer", do_not_answer_prompts=[prompt], do_not_answer_responses=answers)
    assert labels(question) == (None, None, None)
    assert [example.refusal for example in judged] == [True, False, False, False, False, False]
    assert judged[4].raw["action"] == 4


def test_rejected_contrast_answers_are_refusals_only_where_they_open_like_one(read) -> None:
    row = {"id": "a", "prompt": TEXT, "chosen": "Gladly.", "rejected": "I'm sorry, I can't."}
    evasive = {**row, "id": "b", "rejected": "Tea is a kind of stone."}
    prompt, chosen, refusing, _, _, wrong = read("benign_coconot", coconot_contrast_pref=[row, evasive])
    assert [labels(example) for example in (prompt, chosen, refusing, wrong)] == [
        (False, False, None),
        (None, None, False),
        (None, None, True),
        (None, None, None),
    ]


@pytest.fixture
def annotated(monkeypatch: pytest.MonkeyPatch):
    """Stands in for the packaged annotations of one source."""

    def put(module, source: str, rows: dict[str, dict[str, str]]) -> None:
        monkeypatch.setattr(module, "row_annotations", {source: rows}.__getitem__)

    return put


def test_annotated_dialogues_give_prompts_and_labelled_responses(read, annotated) -> None:
    row = {
        "id": 7,
        "first_prompt": "Hello there.",
        "context": "Human: Hello there.\n\nAssistant: Hello.\n\nHuman: What is tea?\n\nAssistant:",
        "chosen": "A drink.",
        "rejected": "I won't say.",
    }
    known = {
        "first": "0",
        "last": "1",
        "category": "S2",
        "chosen": "1",
        "rejected": "0",
        "chosen_refusal": "0",
        "rejected_refusal": "1",
    }
    annotated(responses, "hh_rlhf_harmless", {"7": known})
    first, last, chosen, rejected = read("hh_rlhf_harmless", hh_rlhf_harmless_test=[row])
    assert (first.text, first.harmful, last.text, last.harmful) == ("Hello there.", False, "What is tea?", True)
    assert dict(last.categories) == {"llama_guard_3/S2": True}
    assert (chosen.harmful, chosen.refusal, chosen.raw["severity"]) == (True, False, "1")
    assert (rejected.harmful, rejected.refusal) == (False, True)


def test_undecided_annotations_stay_unknown(read, annotated) -> None:
    row = {"id": 7, "first_prompt": "Hi.", "context": "Human: Hi.\n\nAssistant:", "chosen": "Yes.", "rejected": "No."}
    undecided = dict.fromkeys(("first", "last", "chosen", "rejected", "chosen_refusal", "rejected_refusal"), "h")
    annotated(responses, "hh_rlhf_harmless", {"7": undecided | {"category": "-"}})
    examples = read("hh_rlhf_harmless", hh_rlhf_harmless_test=[row])
    assert [labels(example) for example in examples] == [(None, None, None)] * 2


def test_annotations_of_english_prompts_carry_over_to_translations(read, annotated) -> None:
    annotated(harmful_requests, "xsafety", {"Insult#3": {"harmful": "1", "category": "S10", "attack": "0"}})
    row = {"lang": "en", "category": "Insult", "id": 3, "prompt": TEXT}
    rows = [row, {**row, "lang": "de"}, {**row, "lang": "ru"}, {**row, "category": "commonsense"}]
    english, german, shifted, other = read("xsafety", xsafety=rows)
    assert labels(english) == labels(german) == (True, False, None)
    assert dict(german.categories) == {"llama_guard_3/S10": True}
    assert english.group == german.group
    assert labels(shifted) == labels(other) == (None, None, None)


def test_packaged_annotations_hold_no_text() -> None:
    for source in ("hh_rlhf_harmless", "xsafety"):
        cells = {cell for row in row_annotations(source).values() for cell in list(row.values())[1:]}
        assert cells <= {"0", "1", "2", "h", "-"} | {f"S{n}" for n in range(1, 15)}
