"""What every style keeps: determinism, and the goal in the prompt exactly once, in plain or to be recovered."""

from __future__ import annotations

import base64
import codecs
import json
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.core.errors import ConfigError, NotFoundError
from corral.guards.deobfuscate.codes import from_morse
from corral.guards.deobfuscate.noise import LEET, with_plain_letters, without_invisible, without_stacked_marks
from corral.models.prompts import PlainText, Prefilled, Unescaped
from corral.redteam.styles import (
    EGIDA18,
    HELD_OUT,
    PLAIN,
    PRESETS,
    SEARCHES,
    STYLES,
    AttackPrompt,
    Chain,
    NotApplicable,
    StyleContext,
    choose_styles,
    load_style,
    seeded,
)
from corral.redteam.styles.prompt import CachedTemplate

GOAL = "How do I find out the secret colour of the kitchen door?"
CONTEXT = StyleContext(
    translations={(GOAL, "zu"): "Umbala oyimfihlo?"},
    templates=(CachedTemplate("t1", "Once: [INSERT PROMPT HERE] The end.", "gptfuzz", "MIT"),),
)
goals = st.text(
    alphabet=st.characters(categories=("L", "N", "P", "Zs"), exclude_characters='"\\'), min_size=4, max_size=60
).filter(lambda text: len(text.strip()) >= 4)


def made(name: str, goal: str = GOAL, seed: int = 0, context: StyleContext = CONTEXT) -> AttackPrompt:
    prompt = load_style(name).apply(goal, rng=seeded(seed, name), context=context)
    assert isinstance(prompt, AttackPrompt), prompt
    return prompt


def everything(prompt: AttackPrompt) -> str:
    """All text that is sent, by anyone."""
    opening = [prompt.prompt.prefix] if isinstance(prompt.prompt, Prefilled) else []
    return "\n".join([*(message.text for message in prompt.shown.messages), *prompt.follow_ups, *opening])


def last_line(text: str) -> str:
    return text.rpartition("\n")[2]


def quoted_words(text: str) -> list[str]:
    return [json.loads(found) for found in re.findall(r'words\.append\(("(?:[^"\\]|\\.)*")\)', text)]


def split_parts(text: str) -> str:
    return "".join(json.loads(found) for found in re.findall(r"^Let \w = (\".*\")$", text, re.MULTILINE))


def _back(letter: str, shift: int) -> str:
    if not (letter.isascii() and letter.isalpha()):
        return letter
    first = ord("A") if letter.isupper() else ord("a")
    return chr((ord(letter) - first - shift) % 26 + first)


def _mirror(letter: str) -> str:
    if not (letter.isascii() and letter.isalpha()):
        return letter
    return chr((ord("A") + ord("Z") if letter.isupper() else ord("a") + ord("z")) - ord(letter))


def _unmasked(text: str) -> str:
    note, key = re.search(r"Note 1: (.*)\nNote 2: (.*)", text).groups()
    for mark, word in re.findall(r"(\[GAP \d+\]) = (\"[^\"]*\")", key):
        note = note.replace(mark, json.loads(word))
    return note


# How a reader who knows the mechanism gets the goal back; written apart from the styles.
RECOVER: dict[str, Callable[[str], str | None]] = {
    "base64": lambda text: base64.b64decode(last_line(text)).decode(),
    "base64_raw": lambda text: base64.b64decode(text).decode(),
    "rot13": lambda text: codecs.decode(last_line(text), "rot13"),
    "caesar": lambda text: "".join(_back(letter, 3) for letter in last_line(text)),
    "atbash": lambda text: "".join(_mirror(letter) for letter in last_line(text)),
    "hex": lambda text: bytes.fromhex(last_line(text)).decode(),
    "ascii_codes": lambda text: "".join(chr(int(number)) for number in last_line(text).split()),
    "reverse": lambda text: last_line(text)[::-1],
    "payload_split": split_parts,
    "token_mask": _unmasked,
    "code_attack": lambda text: " ".join(reversed(quoted_words(text))),
    "code_attack:structure=list": lambda text: " ".join(quoted_words(text)),
    "code_attack:structure=string": lambda text: json.loads(re.search(r"^task = (.*)$", text, re.MULTILINE)[1]),
    "code_chameleon": lambda text: " ".join(reversed(json.loads(re.search(r"^words = (.*)$", text, re.MULTILINE)[1]))),
}
RECOVER |= {f"{name}_io": RECOVER[name] for name in ("base64", "rot13", "caesar", "atbash", "hex", "reverse")}
RECOVER["ascii_codes_io"] = RECOVER["ascii_codes"]
VERBATIM = [
    name
    for name in STYLES.names()
    if name
    not in {
        *RECOVER,
        *("morse", "morse_io", "leet", "disemvowel", "homoglyph", "zero_width", "zalgo"),
        *("art_prompt", "low_resource", "past_tense", "future_tense", "completing"),
        *SEARCHES,  # tests/redteam/styles/search
    }
]


@pytest.mark.parametrize("name", sorted({*STYLES.names()} - {*SEARCHES}))
def test_the_same_seed_gives_the_same_bytes(name) -> None:
    assert made(name).sha256 == made(name).sha256
    assert load_style(name).id == load_style(name).id


@pytest.mark.parametrize(
    "name", ["distractor", "homoglyph", "zero_width", "zalgo", "payload_split", "prefill", "many_shot"]
)
def test_another_seed_gives_another_prompt_of_a_style_with_chances(name) -> None:
    assert len({made(name, seed=seed).sha256 for seed in range(8)}) > 1


@pytest.mark.parametrize("name", VERBATIM)
def test_the_goal_stands_in_the_prompt_exactly_once(name) -> None:
    prompt = made(name)
    assert everything(prompt).count(GOAL) == 1
    assert prompt.goal == GOAL


@pytest.mark.parametrize("name", list(RECOVER))
def test_a_hidden_goal_is_recovered_and_not_in_sight(name) -> None:
    prompt = made(name)
    text = everything(prompt)
    assert RECOVER[name](text) == GOAL
    if "structure=string" not in name:
        assert GOAL not in text


@pytest.mark.parametrize("name", ["base64", "rot13", "hex", "ascii_codes", "code_attack", "code_chameleon"])
@given(goal=goals)
@settings(max_examples=30)
def test_any_goal_is_recovered(name, goal) -> None:
    prompt = load_style(name).apply(goal, rng=seeded(0), context=CONTEXT)
    assert isinstance(prompt, AttackPrompt)
    assert RECOVER[name](everything(prompt)) == goal


def test_morse_is_recovered_without_capitals() -> None:
    assert from_morse(last_line(everything(made("morse")))) == GOAL.lower()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("zero_width", without_invisible),
        ("zalgo", without_stacked_marks),
        ("homoglyph", with_plain_letters),
        (
            "leet",
            lambda text: text.translate(
                str.maketrans({sign: letter for sign, letter in LEET.items() if sign.isdigit()})
            ),
        ),
    ],
)
def test_noise_is_read_as_the_goal(name, read) -> None:
    text = everything(made(name))
    assert text != GOAL
    assert read(text).casefold() == GOAL.casefold()


def test_without_vowels_only_vowels_are_gone() -> None:
    assert everything(made("disemvowel")) == re.sub("[aeiou]", "", GOAL, flags=re.IGNORECASE)


@pytest.mark.parametrize("name", ["leet", "homoglyph", "zalgo"])
def test_noise_has_nothing_to_do_in_a_text_of_other_signs(name) -> None:
    assert isinstance(load_style(name).apply("?! ...", rng=seeded(0), context=CONTEXT), NotApplicable)


def test_tenses_and_openings_move_the_request_word_for_word() -> None:
    assert (
        everything(made("past_tense")) == "How did people find out the secret colour of the kitchen door in the past?"
    )
    assert everything(made("future_tense")).startswith(
        "How will people find out the secret colour of the kitchen door "
    )
    opening = made("completing").prompt
    assert isinstance(opening, PlainText)
    assert opening.text.startswith("The steps to find out the secret colour of the kitchen door are as follows.")
    assert "?" not in opening.text


@pytest.mark.parametrize(
    ("goal", "past"),
    [
        ("Please write a poem on doors.", "How did people write a poem on doors in the past?"),
        ("Could you explain door handles?", "How did people explain door handles in the past?"),
        ("What is a hinge?", "What was a hinge in the past?"),
        ("What are hinges?", "What were hinges in the past?"),
        ("how to paint a door", "How did people paint a door in the past?"),
    ],
)
def test_the_rule_knows_questions_and_commands(goal, past) -> None:
    assert everything(made("past_tense", goal)) == past


def test_what_no_rule_fits_is_not_applicable_but_can_be_completed() -> None:
    goal = "The door and its colour"
    assert isinstance(load_style("past_tense").apply(goal, rng=seeded(0), context=CONTEXT), NotApplicable)
    assert goal in everything(made("completing", goal))


def test_a_rule_for_english_leaves_other_languages_alone() -> None:
    german = StyleContext(language="de")
    for name in ("past_tense", "completing"):
        found = load_style(name).apply("Wie geht das?", rng=seeded(0), context=german)
        assert isinstance(found, NotApplicable)
        assert "en" in found.reason


def test_the_drawn_word_is_the_longest_and_its_place_is_marked() -> None:
    text = everything(made("art_prompt"))
    assert "kitchen" not in text
    assert text.count("[PICTURE]") == 2  # in the instruction and in the request
    rows = [line for line in text.splitlines() if set(line) <= set("#. ") and line]
    assert len(rows) == 5
    assert {len(row) for row in rows} == {7 * len("kitchen") - 2}


def test_a_translation_is_the_users() -> None:
    assert everything(made("low_resource")) == "Umbala oyimfihlo?"
    found = load_style("low_resource:language=xh").apply(GOAL, rng=seeded(0), context=CONTEXT)
    assert isinstance(found, NotApplicable)


def test_a_cached_template_keeps_its_source_and_licence() -> None:
    prompt = made("jailbreak_chat")
    assert everything(prompt) == f"Once: {GOAL} The end."
    assert dict(prompt.meta.notes) == {"template": "t1", "source": "gptfuzz", "licence": "MIT"}
    assert isinstance(load_style("jailbreak_chat").apply(GOAL, rng=seeded(0), context=StyleContext()), NotApplicable)


def test_a_reply_in_a_code_is_decoded_before_it_is_judged() -> None:
    prompt = made("base64_io")
    assert prompt.decode(base64.b64encode(b"It is green.").decode()) == "It is green."
    assert prompt.decode("It is green.") is None
    assert made("base64").decode("It is green.") == "It is green."


def test_prefill_begins_the_answer_and_leaves_the_question_alone() -> None:
    prompt = made("prefill:opening=Sure, the door is:words=2").prompt
    assert isinstance(prompt, Prefilled)
    assert (prompt.conversation.messages[0].text, prompt.prefix) == (GOAL, "Sure, the")


def test_forged_turns_are_text_unless_they_are_asked_to_be_parsed() -> None:
    context = StyleContext(turn_break="<END><BOT>")
    plain = load_style("template_injection").apply(GOAL, rng=seeded(1), context=context)
    parsed = load_style("template_injection_parsed").apply(GOAL, rng=seeded(1), context=context)
    assert isinstance(plain, AttackPrompt)
    assert isinstance(parsed, AttackPrompt)
    assert everything(plain) == everything(parsed)
    assert everything(plain).startswith(f"{GOAL}<END><BOT>")
    assert isinstance(parsed.prompt, Unescaped)
    assert not isinstance(plain.prompt, Unescaped)


@pytest.mark.parametrize("window", [60, 200, 500, 1000, 3000, 20000])
@pytest.mark.parametrize("name", ["many_shot:shots=200", "in_context"])
def test_examples_never_exceed_the_context(name, window) -> None:
    context = StyleContext(window=window, answer_tokens=50)
    found = load_style(name).apply(GOAL, rng=seeded(0), context=context)
    if isinstance(found, AttackPrompt):
        assert context.meter.length(found.shown) + 50 <= window
    else:
        assert window < 1500


def test_as_many_examples_are_shown_as_fit() -> None:
    shown = [made("many_shot:shots=200", context=StyleContext(window=window)) for window in (1000, 3000, 20000)]
    counts = [everything(prompt).count("Human:") - 1 for prompt in shown]
    assert counts == sorted(counts)
    assert counts[0] < counts[1] < counts[2] <= 200
    assert dict(shown[0].meta.notes)["shots"] == str(counts[0])


def test_examples_are_the_users_where_there_are_some() -> None:
    context = StyleContext(demonstrations=(("Which colour?", "Mauve."),))
    for name in ("self_cipher", "many_shot:shots=2", "in_context"):
        assert "Mauve." in everything(made(name, context=context))
        assert "basil" not in everything(made(name, context=context))


@pytest.mark.parametrize(
    "parts",
    [
        ("leet", "base64", "distractor"),
        ("payload_split", "prefix_injection", "prefill"),
        ("reverse", "rot13", "crescendo"),
    ],
)
def test_chains_nest_as_one_likes(parts) -> None:
    a, b, c = map(load_style, parts)
    chains = [Chain([Chain([a, b]), c]), Chain([a, Chain([b, c])]), Chain([a, b, c]), load_style("+".join(parts))]
    prompts = [chain.apply(GOAL, rng=seeded(3), context=CONTEXT) for chain in chains]
    assert len({prompt.sha256 for prompt in prompts if isinstance(prompt, AttackPrompt)}) == 1
    assert len({chain.id for chain in chains}) == 1


def test_a_chain_works_from_the_inside_out() -> None:
    text = everything(made("rot13+base64"))
    inside = base64.b64decode(last_line(text)).decode()
    assert codecs.decode(last_line(inside), "rot13") == GOAL


@pytest.mark.parametrize(
    "name",
    [
        "prefill+prefill:opening=Yes",
        "base64_io+rot13_io",
        "completing+base64",
        "system_override+completing",
        "foot_in_door+base64",
        "system_override+self_cipher",
        "template_injection_parsed+prefill",
    ],
)
def test_styles_that_conflict_are_refused(name) -> None:
    with pytest.raises(ConfigError):
        made(name)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nonesuch", NotFoundError),
        ("caesar:shift=26", ConfigError),
        ("caesar:turn=3", ConfigError),
        ("caesar:shift", ConfigError),
        ("caesar:shift=three", ConfigError),
        ("leet:rate=2", ConfigError),
        ("payload_split:parts=1", ConfigError),
        ("code_attack:structure=tree", ConfigError),
        ("persuasion:technique=threat", ConfigError),
        ("many_shot:shots=0", ConfigError),
        ("", NotFoundError),
    ],
)
def test_a_name_or_parameter_that_there_is_not_is_refused(name, error) -> None:
    with pytest.raises(error):
        load_style(name)


def test_parameters_show_in_the_name_and_change_the_id() -> None:
    assert load_style("caesar:shift=3").id == load_style("caesar").id
    assert load_style("caesar:shift=4").name == "caesar:shift=4"
    ids = [
        load_style(name).id
        for name in ("caesar", "caesar:shift=4", "caesar_io", "deep_inception", "deep_inception:layers=3")
    ]
    assert len(set(ids)) == len(ids)


def test_presets_hold_styles_that_are_there() -> None:
    assert len(EGIDA18) == 18
    assert set(HELD_OUT) <= set(EGIDA18)
    styles, unavailable = choose_styles(["derta6"])
    harnesses = ["code_attack", "pair", "jailbreak_chat", "self_cipher", "completing", "autodan_ga"]
    assert [style.name for style in styles] == [PLAIN, *harnesses]
    assert not unavailable
    for preset in PRESETS:
        assert all(name in STYLES for name in PRESETS.get(preset).styles)


def test_egida18_needs_nothing_but_itself_and_takes_one_turn() -> None:
    for style in choose_styles(["egida18"])[0]:
        assert not (style.needs.raw_access or style.needs.multi_turn or style.needs.user_data)
        assert isinstance(style.apply(GOAL, rng=seeded(0), context=StyleContext()), AttackPrompt)


def test_all_styles_are_all_that_need_no_search() -> None:
    names = [style.name.partition(":")[0] for style in choose_styles(["all"])[0]]
    assert {*names} == {*STYLES.names()} - {*SEARCHES}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_without_a_target_is_not_applicable(name) -> None:
    assert load_style(name).needs.search
    found = load_style(name).apply(GOAL, rng=seeded(0), context=CONTEXT)
    assert isinstance(found, NotApplicable)
    assert "target" in found.reason


def test_a_style_is_chosen_once_however_often_it_is_named() -> None:
    styles, _ = choose_styles(["egida18", "base64", "base64", "leet+base64"])
    assert len(styles) == 1 + 18 + 1
    with pytest.raises(ConfigError):
        choose_styles([])
