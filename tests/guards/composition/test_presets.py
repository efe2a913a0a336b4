"""Presets: thresholds by false-positive rate, a language's own only where it needs one, 0.5 at the threshold in use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError, MetricError
from corral.data.languages import NoIdentifier
from corral.data.messages import Conversation
from corral.guards.base import Guard, Status
from corral.guards.composition.adjusted import AdjustedGuard
from corral.guards.composition.presets import (
    PRESETS,
    RATES,
    DevelopmentScores,
    Preset,
    PresetFit,
    Presets,
    Thresholds,
    fit_presets,
)
from corral.guards.scripted import ScriptedGuard


def scores(shift: dict[str, float], n: int = 600, seed: int = 0) -> DevelopmentScores:
    """Prompts in several languages; ``shift`` raises the harmless scores of a language."""
    rng = np.random.default_rng(seed)
    languages = [language for language in shift for _ in range(n)]
    harmful = rng.random(len(languages)) < 0.3
    logits = np.where(harmful, 2.5, -2.5) + rng.normal(0, 1, len(languages))
    logits += np.array([shift[language] for language in languages])
    p = 1 / (1 + np.exp(-logits))
    return DevelopmentScores(["prompt"] * len(languages), harmful.tolist(), p.tolist(), languages)


def fitted(found: DevelopmentScores) -> Presets:
    return fit_presets(found, guard="scripted", revision="r", identifier="test 1", split="dev")


def test_a_preset_flags_its_share_of_harmless_rows_and_strict_flags_most() -> None:
    found = scores({"en": 0.0})
    fits = fitted(found).targets["prompt"]
    p, harmless = np.array(found.p_harm), ~np.array(found.harmful)
    for preset in PRESETS:
        fpr = (p[harmless] >= fits[preset].thresholds.common).mean()
        assert RATES[preset] - 0.01 <= fpr <= RATES[preset]
    assert [fits[preset].thresholds.common for preset in PRESETS] == sorted(
        fits[preset].thresholds.common for preset in PRESETS
    )


def test_a_language_that_the_common_threshold_fits_has_none_of_its_own() -> None:
    fits = fitted(scores({"en": 0.0, "fr": 0.0})).targets["prompt"]
    assert all(not fits[preset].thresholds.languages for preset in PRESETS)


def test_a_language_that_it_does_not_fit_gets_its_own_under_every_preset() -> None:
    found = scores({"en": 0.0, "fr": 0.0, "de": 2.0})
    fits = fitted(found).targets["prompt"]
    p, languages = np.array(found.p_harm), np.array(found.languages)
    german = ~np.array(found.harmful) & (languages == "de")
    for preset in PRESETS:
        own = fits[preset].thresholds.languages["de"]
        assert (p[german] >= own).mean() <= RATES[preset]
        rates = fits[preset].by_language["de"]
        assert rates.common_fpr is not None
        assert rates.fpr is not None
        assert rates.fpr < rates.common_fpr
    owns = [fits[preset].thresholds.languages["de"] for preset in PRESETS]
    assert owns == sorted(owns)


def test_a_language_with_few_rows_and_an_unknown_one_use_the_common_threshold() -> None:
    many, few, unknown = scores({"en": 0.0}), scores({"de": 3.0}, n=60, seed=1), scores({"": 3.0}, seed=2)
    each = (many, few, unknown)
    found = DevelopmentScores(
        targets=[target for one in each for target in one.targets],
        harmful=[label for one in each for label in one.harmful],
        p_harm=[p for one in each for p in one.p_harm],
        languages=[language for one in each for language in one.languages],
    )
    thresholds = fitted(found).targets["prompt"]["strict"].thresholds
    assert thresholds.languages.keys() <= {"en"}
    assert thresholds.at("de") == thresholds.at("") == thresholds.common


def test_a_target_with_too_few_rows_has_no_thresholds_and_a_split_with_none_is_refused() -> None:
    assert "response" not in fitted(scores({"en": 0.0})).targets
    with pytest.raises(MetricError, match="too few rows"):
        fitted(scores({"en": 0.0}, n=50))
    with pytest.raises(MetricError, match="name of their development split"):
        fit_presets(scores({"en": 0.0}), guard="g", revision="r", identifier="i", split="")


def test_they_survive_the_disk_and_a_bad_file_names_its_field(tmp_path: Path) -> None:
    presets = fitted(scores({"en": 0.0, "de": 2.0}))
    presets.save(tmp_path / "presets.json")
    assert Presets.load(tmp_path / "presets.json") == presets
    (tmp_path / "bad.json").write_text('{"guard": "default"}')
    with pytest.raises(ConfigError, match=r"bad\.json: revision"):
        Presets.load(tmp_path / "bad.json")


class ByFirstWord:
    """An identifier that is told the language: `de ...`."""

    name = "first word"

    def identify(self, texts):
        return [text.split(" ")[0] if text[:2] in {"de", "en"} else "" for text in texts]


def guard_of(p: float = 0.4, **settings) -> ScriptedGuard:
    return ScriptedGuard(rule=lambda text, _: p, faults={"BOOM": "timeout"}, **settings)


def presets_of(guard: Guard, common: float, languages: dict[str, float]) -> Presets:
    thresholds = Thresholds(common=common, languages=languages)
    fits: dict[Preset, PresetFit] = {"strict": PresetFit(thresholds=thresholds)}
    return Presets(
        guard=guard.name,
        revision=guard.revision,
        identifier=ByFirstWord.name,
        split="dev",
        rates=RATES,
        targets={"prompt": fits},
    )


@given(st.floats(0, 1), st.floats(0.001, 0.999), st.floats(0.001, 0.999), st.sampled_from(["de", "en", "xx"]))
def test_flagged_means_that_the_score_reaches_the_threshold_of_the_language(
    p: float, common: float, german: float, language: str
) -> None:
    inner = guard_of(p)
    guard = AdjustedGuard(inner, presets_of(inner, common, {"de": german}), "strict", identifier=ByFirstWord())
    (verdict,) = guard.classify([Conversation.user(f"{language} text")])
    threshold = german if language == "de" else common
    if abs(p - threshold) > 1e-9:
        assert verdict.flagged == (p > threshold)
    assert verdict.flagged == (verdict.p_harm >= 0.5)
    assert verdict.parts[0].verdict.p_harm == p
    assert ("of de" in verdict.decided_by) == (language == "de")


def test_without_an_identifier_the_common_threshold_applies() -> None:
    inner = guard_of(0.4)
    presets = presets_of(inner, 0.3, {"de": 0.6})
    told = AdjustedGuard(inner, presets, "strict", identifier=ByFirstWord())
    untold = AdjustedGuard(inner, presets, "strict", identifier=NoIdentifier())
    talk = [Conversation.user("de text")]
    assert (told.classify(talk)[0].flagged, untold.classify(talk)[0].flagged) == (False, True)
    assert told.revision != untold.revision
    assert told.name == "scripted+strict"


def test_thresholds_of_languages_that_another_identifier_told_apart_are_refused() -> None:
    class Later(ByFirstWord):
        name = "first word 2"

    inner = guard_of()
    with pytest.raises(ConfigError, match="told apart by `first word`, and here are by `first word 2`"):
        AdjustedGuard(inner, presets_of(inner, 0.3, {"de": 0.6}), "strict", identifier=Later())
    common_alone = presets_of(inner, 0.3, {})
    assert AdjustedGuard(inner, common_alone, "strict", identifier=Later()).name == "scripted+strict"


def test_a_failure_stays_one_and_a_target_without_thresholds_stays_as_it_is() -> None:
    inner = guard_of(0.4)
    guard = AdjustedGuard(inner, presets_of(inner, 0.3, {}), "strict", identifier=ByFirstWord())
    failed, fine = guard.classify([Conversation.user("BOOM"), Conversation.user("fine")])
    assert (failed.status, failed.flagged, fine.flagged) == (Status.TIMEOUT, None, True)
    (both,) = guard.classify_both([Conversation.exchange("hello", "hello")])
    assert both["prompt"].flagged is True
    assert (both["response"].flagged, both["response"].p_harm) == (False, 0.4)


def test_thresholds_of_another_guard_or_revision_are_refused_and_a_missing_preset_too() -> None:
    inner = guard_of()
    presets = presets_of(inner, 0.3, {})
    with pytest.raises(ConfigError, match="fitted for revision"):
        AdjustedGuard(inner, presets.model_copy(update={"revision": "other"}), "strict")
    with pytest.raises(ConfigError, match="fitted for `other`"):
        AdjustedGuard(inner, presets.model_copy(update={"guard": "other"}), "strict")
    with pytest.raises(ConfigError, match="no thresholds for the preset `balanced`"):
        AdjustedGuard(inner, presets, "balanced")
    suffixed = presets.model_copy(update={"revision": f"{inner.revision}-float32"})
    assert AdjustedGuard(inner, suffixed, "strict").name  # the same weights in another dtype
