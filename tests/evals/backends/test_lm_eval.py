"""Ours equals EleutherAI's lm-evaluation-harness, with its own model wrapper and with our engine behind it.

Skipped where lm-eval is not installed; it is no dependency of the project.
"""

from __future__ import annotations

import json
from importlib import resources

import pytest

from corral.core.errors import ConfigError, NotFoundError
from corral.evals.backends.lm_eval import LmEvalTask, generation_settings
from corral.evals.sample_cache import SampleCache
from corral.evals.tasks.multiple_choice.items import ChoiceSet
from corral.evals.tasks.multiple_choice.local import local_set
from corral.evals.tasks.multiple_choice.public_formats import public_set
from corral.evals.tasks.multiple_choice.task import MultipleChoice
from corral.evals.tasks.task import SilentProgress, Subject
from corral.models.engines.base import GenerationSettings
from corral.models.engines.torch import TorchEngine
from corral.models.tiny import write_tiny_llama

ITEMS = 12


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Subject:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    return Subject(TorchEngine.load(write_tiny_llama(folder, context=256)), "tiny", "tiny-0")


@pytest.mark.slow
def test_a_local_set_equals_the_harness_with_its_own_model(subject, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    lines = (resources.files("corral.evals.tasks.local") / "instruction_choice.jsonl").read_text().splitlines()[:ITEMS]
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    config = {
        "task": "corral_local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": metric} for metric in ("acc", "acc_norm", "acc_bytes")],
    }
    model = HFLM(pretrained=subject.engine.model, tokenizer=subject.engine.chat.tokenizer, batch_size=4)
    theirs = lm_eval.simple_evaluate(model=model, tasks=[config], num_fewshot=0, bootstrap_iters=0)

    items = local_set("instruction_choice").items[:ITEMS]
    result = MultipleChoice((ChoiceSet("own", items),)).run(subject, SampleCache(tmp_path / "cache"), SilentProgress())
    found = theirs["results"]["corral_local"]
    assert result.figures["acc/own"].value == pytest.approx(found["acc,none"], abs=1e-6)
    assert result.figures["acc_norm/own"].value == pytest.approx(found["acc_norm,none"], abs=1e-6)
    rows = sorted(theirs["samples"]["corral_local"], key=lambda row: row["doc_id"])
    for item, sample, row in zip(items, result.samples, rows, strict=True):
        assert json.loads(json.dumps(row["doc"]["id"])) == item.id
        nats = [score for ((score, _),) in row["resps"]]
        ours = [score.total for score in subject.engine.logprobs(list(item.requests))]
        assert ours == pytest.approx(nats, abs=2e-4)
        assert [sample.values[name] for name in ("acc", "acc_norm", "acc_bytes")] == [
            row[name] for name in ("acc", "acc_norm", "acc_bytes")
        ]


@pytest.mark.slow
def test_a_public_file_equals_the_harness_with_our_engine(subject, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    rows = [
        {"goal": f"Reach shelf {i}", "sol1": "Take a ladder" + " now" * i, "sol2": "Take a spoon", "label": i % 2}
        for i in range(6)
    ]
    path = tmp_path / "piqa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    cache = SampleCache(tmp_path / "cache")
    theirs = LmEvalTask("piqa", {"validation": path, "train": path}).run(subject, cache, SilentProgress())
    ours = MultipleChoice((public_set("piqa", path),)).run(subject, cache, SilentProgress())
    for metric in ("acc", "acc_norm"):
        assert theirs.figures[metric].value == pytest.approx(ours.figures[f"{metric}/piqa"].value, abs=1e-6)
        assert theirs.figures[metric].n == len(rows)
    again = LmEvalTask("piqa", {"validation": path, "train": path}).run(subject, cache, SilentProgress())
    assert again.figures == theirs.figures
    with pytest.raises(NotFoundError, match="no task"):
        LmEvalTask("no_such_task", {"test": path}).run(subject, cache, SilentProgress())


def test_files_must_be_there_and_of_one_kind(tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(ConfigError, match="one kind"):
        LmEvalTask("piqa")
    with pytest.raises(ConfigError, match="one kind"):
        LmEvalTask("piqa", {"train": tmp_path / "a.jsonl", "validation": tmp_path / "a.csv"})
    with pytest.raises(NotFoundError, match="no such file"):
        LmEvalTask("piqa", {"validation": tmp_path / "b.jsonl"})
    with pytest.raises(ConfigError, match="below 1"):
        LmEvalTask("piqa", {"validation": tmp_path / "a.jsonl"}, limit=0)


def test_generation_options_are_translated_or_refused():
    assert generation_settings({"until": ["\n", ""], "max_gen_toks": 5, "temperature": 0.7}) == GenerationSettings(
        max_new_tokens=5, stop=("\n",)
    )
    sampled = generation_settings({"do_sample": True, "temperature": 0.7, "top_p": 0.9})
    assert (sampled.temperature, sampled.top_p) == (0.7, 0.9)
    with pytest.raises(ConfigError, match="num_beams"):
        generation_settings({"num_beams": 4})
