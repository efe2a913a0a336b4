"""Centres on disk: ``centres.safetensors`` with ``centres.json``, which ties them to one model and one template.

Legend: S sites, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from pydantic import Field

from corral.core.config import Config, load_config
from corral.core.errors import ConfigError, DataError, NotFoundError
from corral.core.files import atomic_directory, atomic_write_json, read_json, sha256_file, sha256_json
from corral.guards.calibration import Calibration
from corral.guards.latent_guard.scores import AnyFloats, ClassCentres, Doubles, Transform, delta, site_scores

CENTRES: Final = "centres.safetensors"
RECORD: Final = "centres.json"
PACKAGED: Final = Path(__file__).parent / "packaged"
_FIELDS: Final = ("positive_SD", "negative_SD", "spread_SD")
_HINT: Final = "Fit centres of this model: corral recipes run latent_guard/small --set model=MODEL --set claims=[]"


Position = Literal["instruction", "prompt"]
POSITIONS: Final[tuple[Position, ...]] = get_args(Position)


class Variant(Config):
    """How states become a score."""

    position: Position = Field(
        "instruction", description="token that harm is read at: the instruction's last (published), or the prompt's"
    )

    sites: str = Field("all", description="`all` (published), `last:K` or `site:I`")
    transform: Transform = Field("raw", description="`raw` (published), `centred` or `whitened`")

    def score(self, states_NSD: AnyFloats, centres: ClassCentres) -> Doubles:
        """Delta of each row, (N,)."""
        return delta(site_scores(states_NSD, centres, self.transform), self.sites)


class CanaryRow(Config):
    """A prompt of ours whose scores are re-measured to see whether a model still is what the centres were fitted on."""

    text: str
    harm: float
    refusal: float


class CentresRecord(Config):
    """What the centres were fitted on, and how their scores are read."""

    schema_version: Literal[1] = 1
    model: str = Field(description="reference of the model, for people")
    model_revision: str = Field(description="of its weights")
    template: str = Field(description="hash of its chat template")
    added_system: str = Field("", description="system text that the template adds of its own accord")
    dtype: str = Field(description="of the weights while fitting")
    hidden_size: int = Field(ge=1)
    sites: tuple[str, ...] = Field(min_length=2)
    step_back: bool = False
    counts: Mapping[str, int] = Field(description="rows of each class")
    data: Mapping[str, int] = Field(default_factory=dict, description="rows of each source")
    data_sha256: str = Field("", description="over the ids of all rows")
    refusal_rule: str = Field("", description="how rows came to count as refused or accepted")
    harm: Variant = Variant()
    refusal: Variant = Variant(position="prompt")
    harm_calibration: Calibration = Calibration()
    refusal_calibration: Calibration = Calibration()
    canary: tuple[CanaryRow, ...] = ()
    command: str = Field("", description="what made them")


@dataclass(frozen=True)
class Centres:
    """Centres of harm, taken at the position of the record's variant, and of refusal at the prompt's last token."""

    harm: ClassCentres
    refusal: ClassCentres
    record: CentresRecord

    def __post_init__(self) -> None:
        shape = (len(self.record.sites), self.record.hidden_size)
        for name, centres in (("harm", self.harm), ("refusal", self.refusal)):
            for field in _FIELDS:
                values: Doubles = getattr(centres, field)
                if values.shape != shape:
                    raise DataError(f"`{name}.{field}` has shape `{values.shape}`, the record says `{shape}`")
                if not np.isfinite(values).all():
                    raise DataError(f"`{name}.{field}` holds values that are not finite")

    def delta_harm(self, states_NSD: AnyFloats) -> Doubles:
        """Delta_harm of states at the variant's position, (N,)."""
        return self.record.harm.score(states_NSD, self.harm)

    def delta_refuse(self, post_NSD: AnyFloats) -> Doubles:
        """Delta_refuse of states at the prompt's last token, (N,)."""
        return self.record.refusal.score(post_NSD, self.refusal)

    def with_record(self, **changes: object) -> Centres:
        """The same centres with other entries in their record."""
        return replace(self, record=self.record.model_copy(update=changes))

    @cached_property
    def revision(self) -> str:
        """16 hex digits of the centres' values and record."""
        arrays = [getattr(c, f).astype(np.float32).tobytes().hex() for c in (self.harm, self.refusal) for f in _FIELDS]
        return sha256_json([self.record.model_dump(mode="json"), sha256_json(arrays)])[:16]

    def require(self, *, model_revision: str, template: str, sites: tuple[str, ...], where: str) -> None:
        """Refuse a model or template other than the one the centres were fitted on.

        Raises:
            ConfigError: another model, template, or list of sites; names both.
        """
        for what, fitted, given in (
            ("chat template", self.record.template, template),
            ("list of sites", "/".join(self.record.sites), "/".join(sites)),
            ("model", self.record.model_revision, model_revision),
        ):
            if fitted != given:
                raise ConfigError(
                    f"the centres were fitted on another {what}: `{fitted[:40]}`, this one is `{given[:40]}`",
                    where=where,
                    hint=_HINT,
                )

    def save(self, folder: Path) -> None:
        """Write both files; an existing folder is replaced."""
        from safetensors.numpy import save_file

        tensors = {
            f"{name}.{field}": np.ascontiguousarray(getattr(centres, field), dtype=np.float32)
            for name, centres in (("harm", self.harm), ("refusal", self.refusal))
            for field in _FIELDS
        }
        with atomic_directory(folder, replace=True) as staged:
            save_file(tensors, staged / CENTRES)
            record = self.record.model_dump(mode="json") | {"sha256": sha256_file(staged / CENTRES)}
            atomic_write_json(staged / RECORD, record)

    @classmethod
    def load(cls, folder: Path) -> Centres:
        """Read what ``save`` wrote.

        Raises:
            NotFoundError: a file is missing.
            ConfigError: the record is malformed, or the two files do not belong together.
            DataError: centres of other shapes than the record says, or not finite.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        for name in (CENTRES, RECORD):
            if not (folder / name).is_file():
                raise NotFoundError(f"no `{name}`", where=str(folder), hint=_HINT)
        values = dict(read_json(folder / RECORD))
        if values.pop("sha256", None) != sha256_file(folder / CENTRES):
            raise ConfigError(
                f"`{CENTRES}` is not the file that `{RECORD}` was written with",
                where=str(folder),
                hint="Copy both files of one fit.",
            )
        record = load_config(CentresRecord, values)
        try:
            tensors = load_file(folder / CENTRES)
            return cls(_class_centres(tensors, "harm", record), _class_centres(tensors, "refusal", record), record)
        except (SafetensorError, KeyError) as error:
            raise ConfigError(f"`{CENTRES}` cannot be read", where=str(folder)) from error


def packaged_centres(model_revision: str | None, template: str) -> Path:
    """The folder of the packaged centres that were fitted on a model.

    Args:
        model_revision: of its weights; ``None`` takes the first centres under the template, whatever the weights.
        template: hash of its chat template.

    Raises:
        NotFoundError: there are none for it.
    """
    known = []
    for record in sorted(PACKAGED.glob(f"*/{RECORD}")):
        values = read_json(record)
        if values["template"] == template and model_revision in (None, values["model_revision"]):
            return record.parent
        known.append(f"`{values['model']}`")
    raise NotFoundError(
        "no packaged centres were fitted on this model and chat template",
        hint=f"There are some of {', '.join(known)}. {_HINT}" if known else _HINT,
    )


def _class_centres(tensors: Mapping[str, AnyFloats], name: str, record: CentresRecord) -> ClassCentres:
    positive, negative = {"harm": ("harmful", "harmless"), "refusal": ("refused", "accepted")}[name]
    values = {field: np.asarray(tensors[f"{name}.{field}"], dtype=np.float64) for field in _FIELDS}
    return ClassCentres(
        values["positive_SD"],
        values["negative_SD"],
        values["spread_SD"],
        positives=record.counts[positive],
        negatives=record.counts[negative],
    )
