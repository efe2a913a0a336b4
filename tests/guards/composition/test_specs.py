"""Compositions as they are written: names, parts, settings, what is refused, and the guards that come of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import corral
from corral.core.errors import ConfigError, NotFoundError, PolicyError
from corral.data.messages import Conversation
from corral.guards.composition.cascade import Band, CascadeGuard
from corral.guards.composition.presets import RATES, PresetFit, Presets, Thresholds
from corral.guards.composition.specs import leaf_guards, name_of, parse_spec, spec_json, under_preset, with_settings
from corral.guards.loading import load_guard
from corral.guards.moderator import Moderator
from corral.guards.policy import Policy

BIG = {"guard": "scripted", "name": "big", "settings": {"words": ["BIG"]}}
CASCADE = {"cascade": ["scripted", BIG], "band": [0.0, 0.5]}


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("scripted", "scripted"),
        (BIG, "big"),
        (CASCADE, "cascade(scripted,big)"),
        ({"ensemble": ["scripted", BIG], "rule": "max"}, "max(scripted,big)"),
        ({"decode": CASCADE}, "cascade(scripted,big)+decode"),
        ({"decode": {**CASCADE, "name": "two"}}, "two+decode"),
        ({"adjust": "default", "preset": "strict"}, "default+strict"),
    ],
)
def test_the_name_is_known_before_anything_is_loaded(spec, name) -> None:
    parsed = parse_spec(spec)
    assert name_of(parsed) == name
    assert parse_spec(spec_json(parsed)) == parsed
    if "adjust" not in spec and spec != BIG:
        assert load_guard(spec).name == name


@pytest.mark.parametrize(
    ("spec", "where", "message"),
    [
        (3, "guard", "a guard is a name, or a mapping"),
        ({"cascad": ["a", "b"]}, "guard", "a guard is a name, or a mapping"),
        ({"cascade": ["a"], "band": [0.2, 0.8]}, "guard: cascade.cascade.1", "is required"),
        ({"cascade": ["a", "b"]}, "guard: cascade", "either `band"),
        ({"cascade": ["a", "b"], "band": [0.2, 0.8], "fit": "x"}, "guard: cascade", "either `band"),
        ({"cascade": ["a", "b"], "band": [0.8, 0.2]}, "guard: cascade", "begins at 0.8"),
        ({"cascade": ["a", "b"], "band": [0.2, 1.8]}, "guard: cascade.band.1", "less than or equal to 1"),
        ({"cascade": ["a", "b"], "bnd": [0.2, 0.8]}, "guard: cascade.bnd", "unknown setting `bnd`"),
        ({"ensemble": ["a"]}, "guard: ensemble.ensemble", "at least 2"),
        ({"ensemble": ["a", "b"], "rule": "vote"}, "guard: ensemble.rule", "got `vote`"),
        ({"decode": {"x": 1}}, "guard: decode.decode", "a guard is a name"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(spec, where, message) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_spec(spec)
    assert caught.value.where == where


def test_an_endless_nest_is_refused() -> None:
    spec: object = "scripted"
    for _ in range(9):
        spec = {"decode": spec}
    with pytest.raises(ConfigError, match="within each other"):
        parse_spec(spec)


def test_settings_reach_the_guards_at_the_bottom_and_win_over_the_specs_own() -> None:
    spec = parse_spec({"decode": CASCADE})
    assert [leaf.guard for leaf in leaf_guards(spec)] == ["scripted", "scripted"]
    changed = with_settings(spec, {"big": {"words": "HUGE"}, "scripted": {"max_chars": 9}})
    assert [dict(leaf.settings) for leaf in leaf_guards(changed)] == [
        {"max_chars": 9},
        {"words": "HUGE", "max_chars": 9},
    ]


def test_a_guard_that_does_not_exist_is_told_before_any_is_loaded() -> None:
    with pytest.raises(NotFoundError, match="`scriptd`"):
        load_guard({"cascade": [{"guard": "duoguard", "settings": {"model": "not there"}}, "scriptd"], "band": [0, 1]})


def test_settings_beside_a_composition_and_a_name_for_no_part_are_refused() -> None:
    with pytest.raises(ConfigError, match="takes no settings"):
        load_guard(CASCADE, words=["A"])
    with pytest.raises(ConfigError, match="only parts"):
        load_guard(BIG)


def test_a_composition_does_not_take_the_name_of_a_guard_of_the_registry() -> None:
    with pytest.raises(ConfigError, match="`default` is a guard that exists"):
        load_guard({**CASCADE, "name": "default"})


def test_a_composition_made_in_python_judges() -> None:
    guard = corral.load_guard(CASCADE)
    plain, big = guard.classify([Conversation.user("hello"), Conversation.user("BIG")])
    assert (plain.flagged, big.flagged) == (False, True)
    revisions = {
        load_guard(spec).revision
        for spec in (
            CASCADE,
            {**CASCADE, "band": [0.0, 0.6]},
            {"cascade": ["scripted", {**BIG, "settings": {"words": ["B"]}}], "band": [0.0, 0.5]},
        )
    }
    assert len(revisions) == 3


def test_a_band_from_a_file_belongs_to_the_guards_that_it_was_fitted_with(tmp_path: Path) -> None:
    small, big = load_guard("scripted"), load_guard("scripted", words=["BIG"])
    file = tmp_path / "band.json"
    fit = {"low": 0.0, "high": 0.5, "guards": {"scripted": small.revision, "big": big.revision}}
    file.write_text(json.dumps(fit))
    spec = {"cascade": ["scripted", BIG], "fit": str(file)}
    assert load_guard(spec).revision == load_guard(CASCADE).revision
    with pytest.raises(ConfigError, match="fitted for revision"):
        load_guard({**spec, "cascade": ["scripted", {**BIG, "settings": {"words": ["OTHER"]}}]})
    with pytest.raises(NotFoundError, match="no such file"):
        load_guard({**spec, "fit": str(tmp_path / "none.json")})
    file.write_text(json.dumps({**fit, "low": 0.9}))
    with pytest.raises(ConfigError, match="lower end first"):
        load_guard(spec)


def test_a_guard_without_presets_says_how_to_get_some() -> None:
    with pytest.raises(ConfigError, match="no thresholds of the preset `strict` were fitted") as caught:
        load_guard({"adjust": "scripted", "preset": "strict"})
    assert "corral eval calibrate presets --guard scripted" in (caught.value.hint or "")
    assert "--thresholds" in (caught.value.hint or "")


def test_a_preset_is_put_around_every_guard_but_one_that_has_its_own() -> None:
    assert name_of(under_preset("default", "strict")) == "default+strict"
    assert under_preset("default", None) == "default"
    own = parse_spec({"adjust": "default", "preset": "permissive"})
    assert under_preset(own, "strict") == own


# --- in a policy


def policy(tmp_path: Path, text: str) -> Policy:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    return Policy.load(file)


def test_a_policy_names_compositions(tmp_path: Path) -> None:
    loaded = policy(
        tmp_path,
        "guards:\n  - scripted\n  - {cascade: [scripted, {guard: scripted, name: big, settings: {words: [BIG]}}], "
        "band: [0.0, 0.5], name: two}\n",
    )
    assert [name_of(spec) for spec in loaded.asked] == ["scripted", "two"]
    moderator = Moderator.from_policy(loaded)
    decision = moderator.check(Conversation.user("BIG"))
    assert (decision.action, decision.reasons) == ("block", ("two:prompt.harm:block",))
    assert loaded.hash != loaded.model_copy(update={"guards": ("scripted",)}).hash
    with pytest.raises(PolicyError, match="asks for guard `two`"):
        Moderator([load_guard("scripted")], loaded)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("guards: [{cascade: [a, b], band: [0.9, 0.1]}]", r"policy\.yaml: guards\.0\.cascade: .*begins at 0.9"),
        ("guards: [scripted, {guard: scripted}]", "listed twice"),
        ("guards: [{decode: scripted, nam: x}]", "unknown setting `nam`"),
        ("preset: strictest", "preset"),
        ("thresholds: presets.json", "thresholds are those of a preset"),
    ],
)
def test_a_policy_says_where_a_composition_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        policy(tmp_path, text)


def test_a_preset_in_a_policy_is_never_passed_over(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="asks for the preset `strict`") as caught:
        Moderator([load_guard("scripted")], Policy(preset="strict"))
    assert '--guard \'{"adjust": "scripted", "preset": "strict"' in (caught.value.hint or "")
    file = thresholds(tmp_path)
    permissive = load_guard({"adjust": "scripted", "preset": "permissive", "thresholds": str(file)})
    with pytest.raises(PolicyError, match="asks for the preset `strict`"):
        Moderator([permissive], Policy(preset="strict"))


def thresholds(folder: Path) -> Path:
    """Presets of the scripted guard under which its harmless score is flagged by `strict` alone."""
    fits = {
        preset: PresetFit(thresholds=Thresholds(common=common))
        for preset, common in (("strict", 0.005), ("balanced", 0.5), ("permissive", 0.9))
    }
    presets = Presets(
        guard="scripted",
        revision=load_guard("scripted").revision,
        identifier="i",
        split="dev",
        rates=RATES,
        targets={"prompt": fits},
    )
    presets.save(folder / "presets.json")
    return folder / "presets.json"


def test_a_policy_names_the_file_of_its_presets_thresholds(tmp_path: Path) -> None:
    file = thresholds(tmp_path)
    strict = policy(tmp_path, f"guards: [scripted]\npreset: strict\nthresholds: '{file}'\n")
    moderator = Moderator.from_policy(strict)
    assert [guard.name for guard in moderator.guards] == ["scripted+strict"]
    assert moderator.check(Conversation.user("hello")).action == "block"
    unnamed = Policy(preset="strict", thresholds=str(tmp_path / "other.json"))
    with pytest.raises(PolicyError, match="is not under"):
        Moderator(moderator.guards, unnamed, specs=moderator.specs)


# --- a policy's guards are those that judge, not others of their names


def moderated(asked: object, loaded: object) -> Moderator:
    spec = parse_spec(loaded)
    return Moderator([load_guard(spec)], Policy.load({"guards": [asked]}), specs={name_of(spec): spec})


TWO = {**CASCADE, "name": "two"}


@pytest.mark.parametrize(
    ("asked", "loaded"),
    [
        (TWO, TWO),
        ("two", TWO),  # no guard of the registry: the loader says what it is
        ("scripted", {"guard": "scripted", "settings": {"words": ["BIG"]}}),  # the policy leaves settings open
        (TWO, {**TWO, "cascade": [{"guard": "scripted", "settings": {"max_chars": 9}}, BIG]}),
    ],
)
def test_a_guard_that_says_more_than_the_policy_asks_for_is_the_one(asked, loaded) -> None:
    assert moderated(asked, loaded).guards


@pytest.mark.parametrize(
    ("asked", "loaded", "message"),
    [
        (TWO, {**TWO, "band": [0.4, 0.5]}, r"`band` of `two` is `\[0\.4, 0\.5\]`, not `\[0\.0, 0\.5\]`"),
        (TWO, {**TWO, "cascade": [BIG, "scripted"]}, "`big` stands in the place of `scripted`"),
        (TWO, {**TWO, "cascade": ["scripted", {**BIG, "settings": {"words": ["B"]}}]}, "`settings.words` of `big`"),
        (TWO, {"ensemble": ["scripted", BIG], "name": "two"}, "kind `ensemble`, not `cascade`"),
        (
            {"ensemble": ["scripted", BIG], "name": "two"},
            {"ensemble": ["scripted", BIG, {**BIG, "name": "third"}], "name": "two"},
            "has 3 parts, not 2",
        ),
        (
            {"ensemble": ["scripted", BIG], "name": "two"},
            {"ensemble": ["scripted", BIG], "rule": "max", "name": "two"},
            "rule",
        ),
        ({"guard": "scripted", "settings": {"words": ["A"]}}, "scripted", "`settings.words` of `scripted` is `None`"),
    ],
)
def test_another_guard_of_the_same_name_is_refused(asked, loaded, message) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        moderated(asked, loaded)
    hint = caught.value.hint or ""
    as_asked = hint[hint.index("'") + 1 : hint.rindex("'")]
    assert parse_spec(json.loads(as_asked)) == parse_spec(asked)  # what the hint says to load is what is asked for


def test_a_guard_of_which_only_the_name_is_known_is_refused_where_the_policy_asks_for_more() -> None:
    with pytest.raises(PolicyError, match="how it was made is not known"):
        Moderator([load_guard(TWO)], Policy.load({"guards": [TWO]}))
    with pytest.raises(PolicyError, match="how it was made is not known"):
        Moderator(
            [load_guard("scripted")], Policy.load({"guards": [{"guard": "scripted", "settings": {"words": "A"}}]})
        )
    small, big = load_guard("scripted"), load_guard("scripted", words=["BIG"])
    impostor = CascadeGuard(small, big, band=Band(), names=("a", "b"), name="scripted")
    with pytest.raises(PolicyError, match="made of other guards"):
        Moderator([impostor], Policy.load({"guards": ["scripted"]}))
    assert Moderator([small], Policy.load({"guards": ["scripted"]})).guards == (small,)


def test_a_policy_without_a_preset_keeps_the_hash_it_had_before_there_were_any() -> None:
    assert Policy.default().hash == "56cb4ef92d8cfcbe"
    assert Policy(preset="strict").hash != Policy.default().hash


@pytest.mark.parametrize("name", ["english", "multilingual"])
def test_packaged_presets_are_for_the_weights_beside_them(name: str) -> None:
    from corral.guards.composition.presets import PRESETS_FILE, Presets
    from corral.guards.default.guard import ENGLISH_WEIGHTS, MULTILINGUAL_WEIGHTS, guard_weights_revision

    folder = {"english": ENGLISH_WEIGHTS, "multilingual": MULTILINGUAL_WEIGHTS}[name]
    presets = Presets.load(folder / PRESETS_FILE)
    assert presets.guard == name
    assert presets.revision.partition("-")[0] == guard_weights_revision(folder)
    assert all(set(fits) == {"strict", "balanced", "permissive"} for fits in presets.targets.values())
