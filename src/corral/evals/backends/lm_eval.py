"""EleutherAI's lm-evaluation-harness as a scorecard task: its prompts and metrics, our engines, local data files.

Only tasks of the installed package are run, by name, so that no configuration file of a user's brings code along. The
data comes from files that the user names; the harness is not asked to fetch anything. Log-likelihoods and answers are
kept in the sample cache like those of our own tasks. Install it with ``pip install lm-eval``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache as cache_once
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from corral.core.errors import ConfigError, EngineError, NotFoundError, suggest
from corral.core.files import sha256_file, sha256_json
from corral.evals.sample_cache import SampleCache, item_hash
from corral.evals.tasks.formulas import Mean
from corral.evals.tasks.task import Measure, Progress, SampleScore, Subject, TaskResult, TaskSkip
from corral.models.engines.base import GenerationSettings
from corral.models.scoring import TokenEngine, text_likelihoods

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

_BUILDERS: Final[Mapping[str, str]] = {
    ".jsonl": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
}
_BATCH: Final = 64
_NEW_TOKENS: Final = 256


@dataclass(frozen=True)
class LmEvalTask:
    """One task of the harness, zero-shot.

    Attributes:
        task: its name in the harness, such as ``arc_easy``.
        files: split to file (JSONL, Parquet or CSV with the columns of the published set); the task's configuration
            says which split it measures on.
        limit: at most the first so many documents; all when ``None``.

    Raises:
        ConfigError: no file, files of several kinds, or a limit below 1.
        NotFoundError: a file is not there.
    """

    task: str
    files: Mapping[str, Path] = field(default_factory=dict)
    limit: int | None = None

    def __post_init__(self) -> None:
        kinds = {path.suffix.lower() for path in self.files.values()}
        if len(kinds) != 1 or not kinds <= set(_BUILDERS):
            raise ConfigError(
                "expected data files of one kind", where="files", hint=f"Known: {', '.join(sorted(_BUILDERS))}."
            )
        for path in self.files.values():
            if not path.is_file():
                raise NotFoundError("there is no such file", where=str(path))
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"`{self.limit}` is below 1", where="limit")

    @property
    def name(self) -> str:
        """``lm_eval/`` and the task's name."""
        return f"lm_eval/{self.task}"

    @property
    def version(self) -> str:
        """Of our adapter; the harness and its task add theirs to the data hash."""
        return "1"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """None before the harness has read the task; ``run`` makes one for each of its metrics."""
        return ()

    def run(self, subject: Subject, cache: SampleCache, progress: Progress) -> TaskResult | TaskSkip:
        """Run the harness; metrics that are means over documents become measures.

        Raises:
            NotFoundError: the harness has no such task.
            EngineError: the model could not answer, or cannot do what the task asks.
        """
        del progress
        if find_spec("lm_eval") is None:
            return TaskSkip(self.name, "lm-eval is not installed", "pip install lm-eval")
        from lm_eval import __version__ as harness
        from lm_eval import simple_evaluate

        manager = _task_manager()
        if self.task not in manager.all_subtasks:
            raise NotFoundError(
                f"lm-eval {harness} has no task `{self.task}`", hint=suggest(self.task, manager.all_subtasks)
            )
        found = simple_evaluate(
            model=engine_model(subject, cache),
            tasks=[self._spec()],
            num_fewshot=0,
            limit=self.limit,
            bootstrap_iters=0,
            task_manager=manager,
        )
        # Within a group the harness prefixes a task's name.
        ((name, rows),) = found["samples"].items()
        samples = [_sample(row) for row in rows]
        up, version = found["higher_is_better"][name], found["versions"][name]
        names = list(dict.fromkeys(name for sample in samples for name in sample.values))
        return TaskResult.of(
            self,
            samples,
            data_hash=sha256_json(
                {
                    "files": {split: sha256_file(path) for split, path in self.files.items()},
                    "limit": self.limit,
                    "task": [self.task, version, harness],
                }
            ),
            measures=[_measure(self.task, name, up.get(name), headline=i == 0) for i, name in enumerate(names)],
            caveats=[f"lm-eval {harness}, task version {version}, zero-shot, without chat template."],
        )

    def _spec(self) -> dict[str, Any]:
        files = {split: str(path) for split, path in self.files.items()}
        (kind,) = {path.suffix.lower() for path in self.files.values()}
        local = {"dataset_path": _BUILDERS[kind], "dataset_name": None, "dataset_kwargs": {"data_files": files}}
        # A task given by itself would be a new one; as a member of a group it is the harness's own, with changes.
        return {"group": "corral", "task": [{"task": self.task, **local}]}


@cache_once
def _task_manager() -> TaskManager:
    """The harness's list of tasks; it reads thousands of files."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def engine_model(subject: Subject, cache: SampleCache) -> LM:
    """The subject's engine as a model of the harness, reading from and writing to the cache."""
    from lm_eval.api.model import LM

    engine = subject.engine

    def kept(
        part: str, requests: Sequence[Any], compute: Callable[[Sequence[Any]], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        arguments = [list(request.args) for request in requests]
        return cache.fill(
            subject,
            f"lm_eval_{part}",
            "1",
            settings={},
            items=arguments,
            keys=[item_hash(each) for each in arguments],
            compute=compute,
            batch_size=_BATCH,
        )

    def score(pairs: Sequence[Any]) -> list[dict[str, Any]]:
        return [
            {"nats": found.total, "greedy": found.greedy}
            for found in engine.logprobs([(context, continuation) for context, continuation in pairs])
        ]

    def roll(texts: Sequence[Any]) -> list[dict[str, Any]]:
        if not isinstance(engine, TokenEngine):
            raise EngineError("the engine does not score token ids, which whole texts need", where=engine.name)
        return [{"nats": found.nats} for found in text_likelihoods(engine, [text for (text,) in texts])]

    def write(prompts: Sequence[Any]) -> list[dict[str, Any]]:
        return [
            {"text": engine.generate([prompt], generation_settings(options))[0].text} for prompt, options in prompts
        ]

    class EngineModel(LM):  # type: ignore[misc, unused-ignore]
        """Takes strings to the engine."""

        tokenizer_name = subject.revision or subject.name

        def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            return [(value["nats"], value["greedy"]) for value in kept("scores", requests, score)]

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            return [value["nats"] for value in kept("texts", requests, roll)]

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            return [value["text"] for value in kept("answers", requests, write)]

    return EngineModel()


def generation_settings(options: Mapping[str, Any]) -> GenerationSettings:
    """What the harness asks of a generation, as our settings.

    Raises:
        ConfigError: an option that would change the answer and that we do not know.
    """
    known = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}
    if unknown := sorted(set(options) - known):
        raise ConfigError(
            f"generation option `{unknown[0]}` is not supported", hint=f"Known: {', '.join(sorted(known))}."
        )
    until = options.get("until") or ()
    return GenerationSettings(
        max_new_tokens=int(options.get("max_gen_toks", _NEW_TOKENS)),
        temperature=float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0,
        top_p=float(options.get("top_p", 1.0)) if options.get("do_sample") else 1.0,
        stop=tuple(filter(None, [until] if isinstance(until, str) else until)),
    )


def _sample(row: Mapping[str, Any]) -> SampleScore:
    values = {
        name: float(row[name])
        for name in row["metrics"]
        if isinstance(row[name], int | float) and math.isfinite(row[name])
    }
    return SampleScore(str(row["doc_id"]), str(row["doc_id"]), values)


def _measure(task: str, name: str, higher_is_better: bool | None, *, headline: bool) -> Measure:
    return Measure(
        name=name,
        title=f"{task}, {name} (lm-eval)",
        unit="share" if name.startswith(("acc", "exact")) else name,
        higher_is_better=higher_is_better,
        area="ability",
        formula=Mean(value=name),
        headline=headline,
    )
