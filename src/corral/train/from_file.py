"""Fine-tuning a chat model on a user's own file: what ``corral train METHOD DATA`` runs.

The run directory keeps settings, data hash, losses and checkpoints; what comes out is an ordinary model directory with
its tokenizer, LoRA weights merged, which everything takes that takes a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from corral.core.config import Config, config_hash, load_config
from corral.core.errors import CorralError, DataError, UserError
from corral.core.files import atomic_path, sha256_file
from corral.core.progress import milestone
from corral.core.runs import Run, resumable_run
from corral.data.readers import RejectedRow, as_json
from corral.data.training_files import Form, TrainingExample, read_training_rows
from corral.train.derta.settings import DertaConfig
from corral.train.door.settings import DoorConfig
from corral.train.fine_tuning_settings import DpoConfig, FineTuningConfig, SftConfig

Method = Literal["sft", "dpo", "derta", "door"]
REJECTS: Final = "rejects.jsonl"
"""Among a run's artefacts: the rows that were set aside, each with its place and what is wrong with it."""


@dataclass(frozen=True)
class _Trained:
    config_class: type[FineTuningConfig]
    forms: tuple[Form, ...]


METHOD_NAMES: Final[tuple[Method, ...]] = get_args(Method)
_METHODS: Final[Mapping[Method, _Trained]] = {
    "sft": _Trained(SftConfig, ("completion",)),
    "dpo": _Trained(DpoConfig, ("preference",)),
    "derta": _Trained(DertaConfig, ("completion", "preference")),
    "door": _Trained(DoorConfig, ("completion", "preference")),
}


class FileTraining(Config):
    """What such a run depends on.

    Attributes:
        method: by which is trained.
        data: the file.
        data_sha256: of its bytes; a file that has changed is another run.
        base: model reference.
        keep_going: set rows aside that cannot be used, instead of stopping at the first.
        settings: of the method, resolved.
        seed: as in the settings, for the run's manifest.
    """

    method: Method
    data: str
    data_sha256: str
    base: str
    keep_going: bool
    settings: Mapping[str, Any]
    seed: int


def plan_training(
    method: Method, data: Path, base: str, overrides: list[str], *, keep_going: bool = False
) -> FileTraining:
    """The settings of a run, resolved and checked.

    Args:
        method: by which to train.
        data: training rows (see ``data/training_files``).
        base: model reference.
        overrides: ``key=value`` texts over the method's defaults.
        keep_going: set unusable rows aside.

    Raises:
        UserError: there is no such file.
        ConfigError: a setting that the method does not have, or a value that it does not take.
    """
    if not data.is_file():
        raise UserError("there is no such file", where=str(data))
    settings = load_config(_METHODS[method].config_class, {}, overrides)
    return FileTraining(
        method=method,
        data=str(data),
        data_sha256=sha256_file(data),
        base=base,
        keep_going=keep_going,
        settings=settings.model_dump(mode="json"),
        seed=settings.seed,
    )


def train_from_file(plan: FileTraining, output: Path, *, runs: Path, resume: bool = True) -> Run:
    """Train, and write the model directory ``output``; the same call continues an interrupted run.

    Args:
        plan: what to do.
        output: a folder that does not exist yet.
        runs: folder of all runs.
        resume: false starts anew.

    Returns:
        The finished run.

    Raises:
        UserError: ``output`` exists.
        NotFoundError: nothing at the base.
        ConfigError: settings that do not fit the rows or the base.
        DataError: a row that cannot be used, or no row at all.
    """
    if output.exists():
        raise UserError("exists", where=str(output), hint="Choose another folder for the model, or remove this one.")
    name = f"train/{plan.method}"
    run = resumable_run(runs, name, config_hash(plan)) if resume else None
    run = run or Run.create(runs, name, plan, seed=plan.seed)
    with run:
        run.add_input(plan.data)
        with _SetAside(run.artefacts / REJECTS, keep_going=plan.keep_going) as aside:
            forms = _METHODS[plan.method].forms
            examples = list(read_training_rows(plan.data, forms, on_reject=aside.row if plan.keep_going else None))
            if not examples:
                raise DataError("holds no training row", where=plan.data)
            _TRAIN[plan.method](plan, examples, output, run, aside)
        run.add_output(output)
        run.report({"model": str(output), "rows": len(examples), "set_aside": aside.count})
    if aside.count:
        milestone(f"{aside.count} rows were set aside: {run.artefacts / REJECTS}")
    return run


class _SetAside:
    """Rows that cannot be used, written to a side file at the end of a ``with`` block, however it ends.

    An error of the block says how many rows were set aside, where they are, and what is wrong with the first.
    """

    def __init__(self, path: Path, *, keep_going: bool) -> None:
        self._path = path
        self._lines: list[str] = []
        self._first = ""
        self.on_example = self.example if keep_going else None

    @property
    def count(self) -> int:
        """Rows set aside."""
        return len(self._lines)

    def row(self, rejected: RejectedRow) -> None:
        """Set aside a row that could not be read."""
        raw = rejected.raw if isinstance(rejected.raw, str) else rejected.raw.decode(errors="replace")
        self._add(rejected.where, rejected.reason, raw=raw)

    def example(self, where: str, error: DataError) -> None:
        """Set aside an example that no training row can be made of."""
        self._add(where, error.message)

    def _add(self, where: str, reason: str, **more: str) -> None:
        self._first = self._first or f"{where}: {reason}"
        self._lines.append(as_json({"where": where, "reason": reason, **more}))

    def __enter__(self) -> _SetAside:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not self._lines:
            return
        with atomic_path(self._path) as staged:
            staged.write_text("".join(f"{line}\n" for line in self._lines), encoding="utf-8")
        if isinstance(error, CorralError):
            told = f"{self.count} rows were set aside ({self._path}), the first {self._first}"
            error.hint = f"{error.hint} {told}" if error.hint else told


_Examples = list[tuple[str, TrainingExample]]
_Train = Callable[[FileTraining, _Examples, Path, Run, _SetAside], None]


def _train_derta(plan: FileTraining, examples: _Examples, output: Path, run: Run, aside: _SetAside) -> None:
    from corral.train.derta.trainer import train_derta
    from corral.train.fine_tuning import load_chat, save_model

    config = load_config(DertaConfig, plan.settings)
    tuned = train_derta(examples, plan.base, config, run.checkpoints, run=run, on_reject=aside.on_example)
    save_model(tuned, load_chat(plan.base), output)


def _train_door(plan: FileTraining, examples: _Examples, output: Path, run: Run, aside: _SetAside) -> None:
    from corral.train.door.trainer import train_door
    from corral.train.fine_tuning import load_chat, save_model

    config = load_config(DoorConfig, plan.settings)
    tuned = train_door(examples, plan.base, config, run.checkpoints, run=run, on_reject=aside.on_example)
    save_model(tuned, load_chat(plan.base), output)


def _train_sft(plan: FileTraining, examples: _Examples, output: Path, run: Run, aside: _SetAside) -> None:
    from corral.train.fine_tuning import load_chat, save_model
    from corral.train.sft import encode_completions, train_sft

    config, chat = load_config(SftConfig, plan.settings), load_chat(plan.base)
    usable = _usable(examples, lambda row: encode_completions([row], chat, max_tokens=config.max_tokens), aside)
    save_model(train_sft(usable, plan.base, config, run.checkpoints, run=run), chat, output)


def _train_dpo(plan: FileTraining, examples: _Examples, output: Path, run: Run, aside: _SetAside) -> None:
    from corral.train.dpo import encode_preferences, train_dpo
    from corral.train.fine_tuning import load_chat, save_model

    config, chat = load_config(DpoConfig, plan.settings), load_chat(plan.base)
    usable = _usable(examples, lambda row: encode_preferences([row], chat, max_tokens=config.max_tokens), aside)
    save_model(train_dpo(usable, plan.base, config, run.checkpoints, run=run), chat, output)


_TRAIN: Final[Mapping[Method, _Train]] = {
    "sft": _train_sft,
    "dpo": _train_dpo,
    "derta": _train_derta,
    "door": _train_door,
}


def _usable(examples: _Examples, encode: Callable[[Any], object], aside: _SetAside) -> list[Any]:
    """The examples that can be encoded; an error names the row of the file."""
    usable = []
    for where, example in examples:
        try:
            encode(example)
        except DataError as error:
            error.where = where
            if aside.on_example is None:
                raise
            aside.on_example(where, error)
            continue
        usable.append(example)
    return usable
