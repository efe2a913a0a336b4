"""The guard on a tiny model: both beliefs, four states, windows, turns, and centres tied to their model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from corral.core.errors import ConfigError, DataError, MetricError, NotFoundError
from corral.data.messages import Conversation, Message
from corral.guards.base import Guard, Status
from corral.guards.calibration import Calibration
from corral.guards.latent_guard.centres import CENTRES, RECORD, Centres, Variant
from corral.guards.latent_guard.drift import measure_drift, require_steady, with_canary
from corral.guards.latent_guard.fitting import (
    LabelledPrompts,
    calibrate,
    choose_variant,
    fit_centres,
    harm_centres,
    refusal_labels,
    refused_by_replies,
)
from corral.guards.latent_guard.guard import LatentHarmGuard
from corral.guards.latent_guard.verdict import LatentState
from corral.guards.loading import load_guard
from corral.models.loading import load_causal_lm, load_tokenizer

THINGS = ("lamp", "chair", "boat", "clock", "vase", "bike", "drum", "kite", "tent", "bench")
HARMFUL = tuple(f"XX {thing} XX" for thing in THINGS)  # as in conftest
HARMLESS = tuple(f"oo {thing} oo" for thing in THINGS)


@pytest.fixture(scope="session")
def guard(reader, centres):
    return LatentHarmGuard(reader, centres, window=128, overlap=16)


@pytest.fixture(scope="session")
def saved(tmp_path_factory, reader, centres):
    folder = tmp_path_factory.mktemp("centres") / "tiny"
    with_canary(centres, reader, ["oo", "XX"]).save(folder)
    return folder


def test_it_is_a_guard_that_tells_the_classes_it_was_fitted_on_apart(guard):
    assert isinstance(guard, Guard)
    verdicts = guard.classify([Conversation.user(text) for text in (*HARMFUL, *HARMLESS)])
    assert [verdict.flagged for verdict in verdicts] == [True] * 10 + [False] * 10
    assert all((verdict.p_harm >= 0.5) == verdict.flagged for verdict in verdicts)


def test_a_verdict_carries_both_scores_and_their_state(guard, centres, reader):
    (verdict,) = guard.classify([Conversation.user(HARMFUL[0])])
    (reading,) = reader.read([Conversation.user(HARMFUL[0])])
    assert verdict.delta_harm == pytest.approx(centres.delta_harm(reading.inst_SD[None])[0], abs=1e-6)
    assert verdict.delta_refuse == pytest.approx(centres.delta_refuse(reading.post_SD[None])[0], abs=1e-6)
    assert verdict.to_json()["state"] == "believed_harmful_refuses"
    assert verdict.p_refuses >= 0.5
    assert verdict.p_refusal is None  # no reply is there to refuse
    assert guard.score([Conversation.user(HARMFUL[0])])[0] == pytest.approx((verdict.delta_harm, verdict.delta_refuse))


@pytest.mark.parametrize(
    ("harmful", "refuses", "state"),
    [
        (True, True, "believed_harmful_refuses"),
        (True, False, "believed_harmful_complies"),
        (False, True, "believed_harmless_refuses"),
        (False, False, "believed_harmless_complies"),
    ],
)
def test_the_four_states(harmful, refuses, state):
    assert LatentState.of(harmful=harmful, refuses=refuses) == state


def test_the_alarm_is_harm_believed_and_no_refusal(reader, centres):
    never = Calibration(threshold=1e6)
    guard = LatentHarmGuard(reader, centres.with_record(refusal_calibration=never), window=128, overlap=16)
    (verdict,) = guard.classify([Conversation.user(HARMFUL[1])])
    assert verdict.state is LatentState.JAILBROKEN


@pytest.mark.parametrize("position", ["instruction", "prompt"])
def test_every_user_turn_is_scored_and_the_largest_counts(reader, labelled, readings, position):
    harmful = np.array(labelled.harmful_N)
    by_position = harm_centres(readings, harmful, position)
    fitted = fit_centres(reader, labelled)
    centres = Centres(
        by_position, fitted.refusal, fitted.record.model_copy(update={"harm": Variant(position=position)})
    )
    guard = LatentHarmGuard(reader, centres, window=200, overlap=16)
    first = Conversation.user(HARMFUL[0])
    later = Conversation((*first.messages, Message.of("assistant", "no"), Message.of("user", HARMLESS[0])))
    only_last = guard.score([Conversation.user(HARMLESS[0])])[0][0]
    whole, alone = guard.score([later])[0][0], guard.score([first])[0][0]
    assert whole == pytest.approx(max(whole, alone))
    assert whole >= alone - 1e-5  # the decoder is causal: the first turn scores as it does alone
    assert whole > only_last
    windows = guard.encode(later, "prompt")
    assert len({window.ids for window in windows.windows}) == 1
    assert len(windows.windows) == 2


def test_older_turns_are_left_out_where_the_conversation_is_too_long_and_counted(guard):
    turns = [message for n in range(12) for message in Conversation.exchange(f"turn {n}", "ok").messages]
    conversation = Conversation((Message.of("system", "be brief"), *turns, Message.of("user", HARMLESS[0])))
    windows = guard.encode(conversation, "prompt")
    assert windows.context_dropped > 0
    assert all(len(window.ids) <= 128 for window in windows.windows)
    assert "be brief" in guard._reader.engine.chat.decode(windows.windows[0].ids)


def test_a_long_message_is_read_whole_in_overlapping_pieces(guard, reader):
    text = " ".join(f"word{n}" for n in range(60))
    windows = guard.encode(Conversation.user(text), "prompt").windows
    assert len(windows) > 1
    assert all(len(window.ids) <= 128 for window in windows)
    read = "".join(reader.engine.chat.decode(window.ids) for window in windows)
    assert all(f"word{n}" in read for n in range(60))
    (verdict,) = guard.classify([Conversation.user(text)])
    assert verdict.status is Status.OK
    assert verdict.windows == len(windows)


def test_items_fail_singly_and_say_why(guard):
    verdicts = guard.classify(
        [Conversation.user(" "), Conversation.user(HARMFUL[0]), Conversation.exchange("a", "b"), Conversation(())]
    )
    assert [verdict.status for verdict in verdicts] == [Status.ERROR, Status.OK, Status.ERROR, Status.ERROR]
    assert [verdict.flagged for verdict in verdicts] == [None, True, None, None]
    assert "empty" in verdicts[0].detail
    assert "judges prompts, not responses" in verdicts[2].detail


def test_windows_that_leave_no_room_are_refused(reader, centres):
    for window, overlap in ((10, 0), (100_000, 16), (128, 127)):
        with pytest.raises(ConfigError, match="a window of"):
            LatentHarmGuard(reader, centres, window=window, overlap=overlap)


def test_centres_come_back_as_they_were_saved(saved, centres):
    loaded = Centres.load(saved)
    np.testing.assert_allclose(loaded.harm.positive_SD, centres.harm.positive_SD, rtol=1e-6)
    np.testing.assert_allclose(loaded.refusal.spread_SD, centres.refusal.spread_SD, rtol=1e-6)
    record = loaded.record
    assert record.counts == {"harmful": 10, "harmless": 10, "refused": 10, "accepted": 10}
    assert record.data == {"made up": 20}
    assert record.sites == ("residual.0", "residual.1", "residual.2", "residual.3")
    assert len(record.canary) == 2
    assert record.harm_calibration == centres.record.harm_calibration


def test_a_guard_is_loaded_with_its_centres(saved, model_folder, guard):
    loaded = load_guard("latent-guard", model=str(model_folder), centres=str(saved), window=128, overlap=16)
    conversations = [Conversation.user(HARMFUL[3]), Conversation.user(HARMLESS[3])]
    for ours, theirs in zip(loaded.classify(conversations), guard.classify(conversations), strict=True):
        assert ours.p_harm == pytest.approx(theirs.p_harm, abs=1e-4)
    assert loaded.name == "latent-guard"


def test_a_model_without_packaged_centres_says_how_to_fit_them(model_folder):
    with pytest.raises(NotFoundError, match="no packaged centres") as caught:
        LatentHarmGuard.load(model=str(model_folder))
    assert "latent_guard/small" in (caught.value.hint or "")


@pytest.fixture
def other_model(tmp_path, model_folder):
    """The same template with slightly other weights."""
    model = load_causal_lm(model_folder)
    with torch.no_grad():
        model.model.norm.weight += 1e-6
    model.save_pretrained(tmp_path / "other")
    load_tokenizer(model_folder).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_centres_of_another_model_are_refused_unless_the_change_is_owned_up_to(saved, other_model):
    with pytest.raises(ConfigError, match="another model"):
        LatentHarmGuard.load(model=str(other_model), centres=str(saved), window=128, overlap=16)
    LatentHarmGuard.load(model=str(other_model), centres=str(saved), window=128, overlap=16, allow_changed_weights=True)


def test_centres_of_another_template_are_refused(saved, tmp_path, model_folder):
    shutil.copytree(model_folder, tmp_path / "model")
    tokenizer = load_tokenizer(model_folder)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "bot")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="another chat template"):
        LatentHarmGuard.load(
            model=str(tmp_path / "model"), centres=str(saved), window=128, overlap=16, allow_changed_weights=True
        )


def test_drift_is_nothing_on_the_same_model_and_large_on_a_broken_one(reader, make_reader, centres):
    watched = with_canary(centres, reader, ["oo lamp oo", "XX lamp XX"])
    assert measure_drift(watched, reader).largest < 1e-6
    broken = make_reader()
    with torch.no_grad():
        for parameter in broken.engine.model.parameters():
            parameter.neg_()
    assert measure_drift(watched, broken).largest > 0.1
    with pytest.raises(ConfigError, match="moved by"):
        require_steady(watched, broken, max_drift=0.1, where="here")
    with pytest.raises(ConfigError, match="no canary"):
        measure_drift(centres, reader)


def test_files_of_two_fits_do_not_go_together(saved, tmp_path, centres):
    centres.save(tmp_path / "a")
    shutil.copy(saved / RECORD, tmp_path / "a" / RECORD)
    record = json.loads((tmp_path / "a" / RECORD).read_text()) | {"sha256": "0"}
    (tmp_path / "a" / RECORD).write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=CENTRES):
        Centres.load(tmp_path / "a")
    (tmp_path / "a" / CENTRES).unlink()
    with pytest.raises(NotFoundError, match=CENTRES):
        Centres.load(tmp_path / "a")


def test_centres_that_are_not_finite_are_refused(centres):
    spoilt = centres.harm.positive_SD.copy()
    spoilt[0, 0] = np.inf
    with pytest.raises(DataError, match="not finite"):
        Centres(type(centres.harm)(spoilt, *(getattr(centres.harm, f) for f in ("negative_SD", "spread_SD")), 9, 9),
                centres.refusal, centres.record)  # fmt: skip


def test_alpha_is_zero_the_best_f1_or_a_rate_of_false_alarms():
    scores, labels = np.array([-2.0, -1.0, -0.5, 1.0, 2.0, 3.0]), np.array([0, 0, 1, 0, 1, 1], dtype=bool)
    assert calibrate(scores, labels, split="dev", operating_point="zero").threshold == 0.0
    # flagging the five highest would be F1 .75, the four highest .857
    assert -1.0 < calibrate(scores, labels, split="dev").threshold <= -0.5
    assert 1.0 < calibrate(scores, labels, split="dev", operating_point=0.0).threshold <= 2.0
    with pytest.raises(MetricError, match="needs the name"):
        calibrate(scores, labels, split=" ")


def test_the_variant_is_chosen_on_development_rows(readings, labelled):
    harmful = np.array(labelled.harmful_N)
    centres = {"instruction": harm_centres(readings, harmful), "prompt": harm_centres(readings, harmful, "prompt")}
    variant, value = choose_variant(readings, harmful, centres, sites=["site:1", "all"])
    assert value == 1.0
    assert variant.sites in ("site:1", "all")
    with pytest.raises(MetricError, match="one class"):
        choose_variant(readings, np.ones(len(readings), dtype=bool), centres)


def test_refusal_labels_by_sign_follow_the_companion_and_by_thirds_balance_harm(readings, labelled):
    harmful = np.array(labelled.harmful_N)
    scores = np.linspace(-1, 1, len(readings))
    scored = type(readings)(readings.inst_NSD, readings.post_NSD, scores, readings.read_N)
    refused, accepted = refusal_labels(scored, harmful, "sign")
    assert refused.tolist() == (harmful & (scores > 0)).tolist()
    assert accepted.tolist() == (~harmful & (scores < 0)).tolist()
    refused, accepted = refusal_labels(scored, harmful, "thirds")
    for flags in (refused, accepted):
        assert (flags & harmful).sum() == (flags & ~harmful).sum() == 3
    assert scores[refused & harmful].min() > scores[accepted & harmful].max()
    with pytest.raises(ConfigError, match="refusal_rule"):
        refusal_labels(scored, harmful, "halves")


def test_refusal_can_be_told_by_replies(reader):
    said = refused_by_replies(
        reader.engine, [Conversation.user("hi"), Conversation.user("yo")], refuses=lambda reply: True, max_new_tokens=2
    )
    assert said == (True, True)


def test_labels_that_do_not_match_the_prompts_are_refused():
    with pytest.raises(DataError, match="2 values for 1 prompts"):
        LabelledPrompts((Conversation.user("a"),), (True, False))


def test_a_fit_needs_eight_of_each_class(reader):
    prompts = LabelledPrompts(tuple(Conversation.user(f"p{n}") for n in range(12)), tuple(n < 3 for n in range(12)))
    with pytest.raises(DataError, match="3 rows are harmful"):
        fit_centres(reader, prompts)
