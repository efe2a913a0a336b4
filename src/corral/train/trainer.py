"""What every method shares on top of ``transformers.Trainer``: small checkpoints, a marker, safe resume, quiet logs.

Methods bring a loss, a collator and model surgery; the loop, mixed precision, gradient accumulation, FSDP and DeepSpeed
are the library's. Checkpoints hold the trained weights only (the frozen base is loaded anew), and one counts only once
its marker is written (``core/checkpoints``): a kill in the middle of a save costs the steps since the last whole one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from corral.core.checkpoints import latest_complete, mark_complete
from corral.core.errors import RunError
from corral.core.progress import ProgressBar, progress
from corral.core.runs import Run


class ResumableTrainer(Trainer):  # type: ignore[misc]
    """A trainer whose checkpoints are small and crash-safe.

    A run may hold several trainings, each with an output directory of its own; its name tells their metrics apart.

    Args:
        run: where metrics go; ``None`` keeps them in memory only.
        arguments: as for ``transformers.Trainer``.
    """

    def __init__(self, *, run: Run | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._run = run
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(_MarkWholeCheckpoints())
        self.add_callback(_ReportProgress(run))

    def train_resuming(self) -> None:
        """Train from the newest whole checkpoint in the output directory, or from the start."""
        newest = latest_complete(Path(self.args.output_dir))
        if self._run is not None:
            step = int(newest.name.rpartition("-")[2]) if newest else 0
            self._run.rewind_log(step, training=Path(self.args.output_dir).name)
        self.train(resume_from_checkpoint=str(newest) if newest else None)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        state = self.model.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {name: tensor for name, tensor in state.items() if name in trained})

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        missing = trained.intersection(load_result.missing_keys)
        if missing or load_result.unexpected_keys:
            odd = sorted(missing) or sorted(load_result.unexpected_keys)
            raise RunError(
                f"the checkpoint does not fit the model: `{odd[0]}` and {len(odd) - 1} more",
                where=self.args.output_dir,
                hint="It was made with other settings. Use a new run directory.",
            )


class _MarkWholeCheckpoints(TrainerCallback):  # type: ignore[misc]
    def on_save(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class _ReportProgress(TrainerCallback):  # type: ignore[misc]
    def __init__(self, run: Run | None) -> None:
        self._run = run
        self._bar: ProgressBar | None = None

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        self._bar = progress(state.max_steps, "Training")
        self._bar.__enter__()
        self._bar.advance(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.advance(1)

    def on_log(
        self, args: TrainingArguments, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if self._run is not None and state.is_world_process_zero and logs:
            self._run.log(step=state.global_step, training=Path(args.output_dir).name, **logs)

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
