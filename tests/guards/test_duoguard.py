"""DuoGuard's rule, its pooling, and what it refuses to load; on tiny random models written to a folder."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from corral.core.errors import ConfigError, DataError, NotFoundError
from corral.data.messages import Conversation
from corral.guards.base import Guard, Status
from corral.guards.calibration import Calibration
from corral.guards.classifier import Span
from corral.guards.duoguard import (
    DuoGuard,
    duoguard_codes,
    fit_category_calibrations,
    load_calibrations,
    save_calibrations,
)
from corral.guards.loading import load_guard
from corral.models.loading import load_fast_tokenizer

SIZES = {
    "vocab_size": 270,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}
END = "<|endoftext|>"


def byte_tokenizer(*, bos):
    """A token a byte; padding shares the id of end-of-sequence, as in many published tokenizers."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([END, "<s>"])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, bos_token="<s>")


def write_model(folder, family, *, labels=12, pad_token_id=256):
    torch.manual_seed(0)
    config_class, model_class = {
        "qwen2": (Qwen2Config, Qwen2ForSequenceClassification),
        "llama": (LlamaConfig, LlamaForSequenceClassification),
    }[family]
    model = model_class(config_class(**SIZES, num_labels=labels, pad_token_id=pad_token_id))
    with torch.no_grad():
        model.score.weight.normal_(std=1.0)  # large enough that scores differ between texts
    model.save_pretrained(folder)
    byte_tokenizer(bos=family == "llama").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: write_model(root / family, family) for family in ("qwen2", "llama")}


@pytest.fixture(params=["qwen2", "llama"])
def folder(request, folders):
    return folders[request.param]


def load(folder, **settings):
    return DuoGuard.load(model=folder, **{"window": 32, "overlap": 8} | settings)


def says(*texts):
    return [Conversation.user(text) for text in texts]


def copy(folder, target, **tensors):
    """The checkpoint with tensors replaced, or removed where ``None``."""
    target.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((folder / name).read_bytes())
    state = load_file(folder / "model.safetensors") | tensors
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


TEXTS = ["a", "how do I bake bread", "x" * 100, "the quick brown fox jumps over the lazy dog. " * 3]


def test_a_checkpoint_of_either_family_loads_and_judges(folder):
    guard = load_guard("duoguard", model=folder, window=32, overlap=8)
    assert isinstance(guard, Guard)
    verdicts = guard.classify(says(*TEXTS))
    assert [v.status for v in verdicts] == [Status.OK] * 4
    assert [v.windows > 1 for v in verdicts] == [False, False, True, True]
    for verdict in verdicts:
        assert tuple(verdict.categories) == duoguard_codes()
        assert verdict.p_harm == max(verdict.categories.values())
        assert verdict.flagged == (verdict.p_harm > 0.5)
        assert verdict.p_attack == verdict.categories["duoguard/jailbreak_prompts"]


def test_it_agrees_with_transformers_own_classifier(folder):
    """The reference pools by pad id, so it is asked one text at a time, without padding."""
    reference = {"qwen2": Qwen2ForSequenceClassification, "llama": LlamaForSequenceClassification}[folder.name]
    model, tokenizer = reference.from_pretrained(folder).eval(), PreTrainedTokenizerFast.from_pretrained(folder)
    (scores,) = load(folder, window=128, overlap=8).raw_scores(says(TEXTS[2]))
    with torch.inference_mode():
        expected = model(**tokenizer(TEXTS[2], return_tensors="pt", return_token_type_ids=False)).logits[0]
    assert scores == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_batch_says_what_single_calls_say(folder):
    guard = load(folder)
    batch = guard.raw_scores(says(*TEXTS))
    for text, scores in zip(TEXTS, batch, strict=True):
        assert scores == pytest.approx(guard.raw_scores(says(text))[0], abs=1e-5)


def test_left_and_right_padding_give_the_same_scores(folder):
    right = load(folder)
    left = DuoGuard(right._model, load_fast_tokenizer(folder), revision="r", window=32, overlap=8, padding_side="left")
    for a, b in zip(left.raw_scores(says(*TEXTS)), right.raw_scores(says(*TEXTS)), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_the_last_token_is_found_by_the_mask_not_by_the_pad_id(folder):
    """A text that ends in the pad id is read to its end, alone or beside a longer one."""
    guard = load(folder)
    ending_in_pad = (5, 6, 256)
    (alone,) = guard.forward([ending_in_pad], [Span(0, 0, 3, "prompt")])
    spans = [Span(0, 0, 3, "prompt"), Span(1, 0, 5, "prompt")]
    padded, _ = guard.forward([ending_in_pad, (1, 2, 3, 4, 5)], spans)
    (without,) = guard.forward([(5, 6)], [Span(0, 0, 2, "prompt")])
    assert padded == pytest.approx(alone, abs=1e-5)
    assert not np.allclose(alone, without, atol=1e-3)


def test_text_that_looks_like_a_special_token_is_text(folder):
    guard = load(folder)
    (windows,) = (guard.encode(c, "prompt").windows for c in says(f"a{END}"))
    assert 256 not in windows[0].ids
    assert windows[0].stop - windows[0].start == 1 + len(END)


def test_windows_begin_as_the_tokenizer_begins_a_text(folders):
    for family, prefix in (("llama", (257,)), ("qwen2", ())):
        windows = load(folders[family]).encode(says("x" * 100)[0], "prompt").windows
        assert all(w.ids[: w.start] == prefix for w in windows)
        assert all(len(w.ids) <= 32 for w in windows)


def test_scores_are_the_maximum_over_windows(folder):
    guard = load(folder)
    windows = guard.encode(says(TEXTS[3])[0], "prompt").windows
    each = [guard.forward([w.ids], [Span(0, w.start, w.stop, "prompt")])[0] for w in windows]
    assert guard.raw_scores(says(TEXTS[3]))[0] == pytest.approx(np.max(each, axis=0), abs=1e-5)


def test_only_the_judged_message_is_read(folder):
    guard = load(folder)
    (both,) = guard.classify_both([Conversation.exchange(TEXTS[1], TEXTS[3])])
    (prompt,) = guard.classify(says(TEXTS[1]))
    assert both["prompt"].p_harm == pytest.approx(prompt.p_harm, abs=1e-5)
    assert both["response"].p_attack is None


def test_the_largest_of_all_zero_scores_is_not_above_one_half(folder):
    guard = load(folder)
    scores = guard.conclude(np.zeros(12), "prompt")
    assert (scores.p_harm, scores.flagged) == (0.5, False)
    assert guard.conclude(np.eye(12)[4], "prompt").flagged


def test_what_changes_scores_or_refusals_changes_the_revision(folder):
    revisions = {
        load(folder, **change).revision
        for change in ({}, {"dtype": "bfloat16"}, {"max_chars": 9}, {"window": 64}, {"overlap": 4})
    }
    assert len(revisions) == 5
    assert load(folder, tokens_per_batch=64).revision == load(folder).revision


def test_a_calibration_moves_a_categorys_threshold(folder, tmp_path):
    code = duoguard_codes()[4]
    save_calibrations(tmp_path / "c.json", {code: Calibration(slope=2.0, threshold=3.0, split="dev")})
    guard = load(folder, calibration=tmp_path / "c.json")
    row = np.full(12, -5.0)
    row[4] = 2.9
    assert not guard.conclude(row, "prompt").flagged
    row[4] = 3.1
    assert guard.conclude(row, "prompt").flagged
    assert guard.revision != load(folder).revision


def test_calibrations_are_fitted_on_known_labels_only(tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 12))
    labels = np.full((200, 12), -1)
    labels[:, 0] = scores[:, 0] + rng.normal(size=200) > 1
    labels[:150, 1] = labels[:150, 0]
    labels[:, 2] = 0
    scores[:, 1] = scores[:, 0]
    fitted = fit_category_calibrations(scores, labels, split="dev")
    codes = duoguard_codes()
    assert sorted(fitted) == sorted(codes[:2])
    assert (fitted[codes[0]].n, fitted[codes[1]].n) == (200, 150)
    save_calibrations(tmp_path / "c.json", fitted)
    assert load_calibrations(tmp_path / "c.json") == fitted
    with pytest.raises(DataError, match="12"):
        fit_category_calibrations(scores[:, :3], labels[:, :3], split="dev")


def test_broken_weights_give_errors_not_verdicts(folder):
    guard = load(folder)
    guard._model.score.weight.data[3, 0] = torch.nan
    (verdict,) = guard.classify(says("hello"))
    assert verdict.status is Status.ERROR
    assert "not finite" in verdict.detail


def test_a_head_of_another_size_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"2.*12"):
        load(write_model(tmp_path / "two", "qwen2", labels=2))


def test_a_head_that_contradicts_the_config_is_an_error(folder, tmp_path):
    with pytest.raises(ConfigError, match="shapes"):
        load(copy(folder, tmp_path / "bad", **{"score.weight": torch.zeros(2, 16)}))


@pytest.mark.parametrize("name", ["score.weight", "model.layers.1.mlp.up_proj.weight"])
def test_missing_weights_are_an_error(folder, tmp_path, name):
    with pytest.raises(ConfigError, match=name):
        load(copy(folder, tmp_path / "bad", **{name: None}))


def test_the_tokenizer_may_live_elsewhere(folder, tmp_path):
    weights = copy(folder, tmp_path / "weights")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (weights / name).unlink()
    with pytest.raises(NotFoundError, match="tokenizer=") as caught:
        load(weights)
    assert "--set duoguard.tokenizer" in str(caught.value)
    assert load(weights, tokenizer=folder).classify(says("a"))[0].p_harm == pytest.approx(
        load(folder).classify(says("a"))[0].p_harm, abs=1e-6
    )


def test_an_unknown_category_in_a_calibration_is_an_error(folder, tmp_path):
    save_calibrations(tmp_path / "c.json", {"duoguard/nonsense": Calibration()})
    with pytest.raises(ConfigError, match="nonsense"):
        load(folder, calibration=tmp_path / "c.json")


def test_a_damaged_calibration_file_names_the_field(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"duoguard/hate": {"slope": 0}}))
    with pytest.raises(ConfigError, match=r"duoguard/hate\.slope"):
        load_calibrations(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("settings", "said"), [({"window": 500}, "longer"), ({"overlap": 32}, "overlap"), ({"dtype": "int3"}, "dtype")]
)
def test_settings_that_do_not_fit_are_refused(folder, settings, said):
    with pytest.raises(ConfigError, match=said):
        load(folder, **settings)


def test_a_folder_that_is_no_model_is_named(tmp_path):
    byte_tokenizer(bos=False).save_pretrained(tmp_path / "empty")
    with pytest.raises(NotFoundError, match="empty"):
        load(tmp_path / "empty")
