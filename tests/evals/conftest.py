"""Small self-written data folders and guards that answer by rule."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corral.core.files import sha256_file
from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import Conversation, Target, TargetChoice
from corral.data.sources import SOURCES
from corral.evals.scored import ScoredSet
from corral.evals.tasks.eval_set import EvalSet
from corral.evals.tasks.moderation_sets import SETS
from corral.guards.base import Status, Verdict

Rule = Callable[[str, Target], Mapping[str, float] | None]


class RuleGuard:
    """Judges the text of the target by a rule that gives scores, or ``None`` for an error; counts what it judged."""

    taxonomy = ""

    def __init__(self, rule: Rule, *, name: str = "rule", revision: str = "r1", fail_after: int | None = None) -> None:
        self.name, self.revision, self.rule, self.fail_after = name, revision, rule, fail_after
        self.judged: list[str] = []

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        return [self._verdict(conversation, conversation.target(target)) for conversation in conversations]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        raise NotImplementedError

    def _verdict(self, conversation: Conversation, target: Target) -> Verdict:
        if self.fail_after is not None and len(self.judged) >= self.fail_after:
            raise KeyboardInterrupt
        index = conversation.judged_index(target)
        assert index is not None
        text = conversation.messages[index].text
        self.judged.append(text)
        scores = self.rule(text, target)
        if scores is None:
            return Verdict.failed(target, self.name, self.revision, Status.ERROR, "by rule")
        flagged = scores.get("p_harm", scores.get("flagged", 0.0)) >= 0.5
        given = {name: score for name, score in scores.items() if name != "flagged"}
        return Verdict(target, self.name, self.revision, flagged=flagged, latency_ms=2.0, **given)


@pytest.fixture
def rule_guard() -> type[RuleGuard]:
    return RuleGuard


@pytest.fixture
def write_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes rows as the files of a source into a data folder, and records their hashes in the registry."""
    root = tmp_path / "data"
    monkeypatch.setenv("CORRAL_DATA", str(root))

    def write(name: str, **files: Sequence[Mapping[str, Any]]) -> Path:
        source = SOURCES.get(name)
        hashes = {}
        for relative in source.files:
            path = root / relative
            stem = path.name.split(".", 1)[0]
            if stem in files or not path.exists():  # sources may share a file
                path.parent.mkdir(parents=True, exist_ok=True)
                data = "".join(f"{json.dumps(row)}\n" for row in files.get(stem, ())).encode()
                path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
            hashes[relative] = sha256_file(path)
        monkeypatch.setitem(SOURCES._entries, name, replace(source, files=hashes))
        return root

    return write


@pytest.fixture
def aegis(write_source: Callable[..., Path]) -> Path:
    """Forty prompts, every other one harmful; rows 36 to 39 repeat the prompts of rows 0 to 3."""
    words = [f"question number {i % 36} about {'TRIGGER' if i % 2 else 'bread'}" for i in range(40)]
    rows = [{"id": i, "prompt": word, "label": "harmful" if i % 2 else "unharmful"} for i, word in enumerate(words)]
    return write_source("aegis_test", aegis_safety_test=rows)


@pytest.fixture
def scored_set() -> Callable[..., ScoredSet]:
    """Makes a scored set from truths, scores (``None`` unscored) and, where given, prompts, languages and columns."""

    def make(
        truth: Sequence[int],
        scores: Sequence[float | None],
        *,
        name: str = "aegis_test",
        eval_set: EvalSet | None = None,
        prompts: Sequence[str] | None = None,
        languages: Sequence[str] | None = None,
        raw: Sequence[Mapping[str, Any]] | None = None,
        guard: str = "rule",
        score_rule: str = "p_harm",
        rows_in_set: int | None = None,
    ) -> ScoredSet:
        n = len(truth)
        texts = prompts or [f"prompt {i}" for i in range(n)]
        examples = tuple(
            ModerationExample(
                Conversation.user(texts[i]),
                "prompt",
                harmful=bool(truth[i]),
                id=str(i),
                group=prompt_key(texts[i]),
                language=languages[i] if languages else "en",
                raw=raw[i] if raw else {},
            )
            for i in range(n)
        )
        return ScoredSet(
            eval_set=eval_set or SETS.get(name),
            guard=guard,
            revision="r1",
            examples=examples,
            truth_N=np.array(truth, dtype=np.int8),
            scores_N=np.array([np.nan if s is None else s for s in scores], dtype=np.float64),
            latency_ms_N=np.arange(n, dtype=np.float64),
            score_rule=score_rule,
            rows_in_set=rows_in_set or n,
        )

    return make
