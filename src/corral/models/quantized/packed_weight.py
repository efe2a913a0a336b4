"""What every format of packed weights has in common.

A format is a frozen dataclass: its tensors are what a file stores, its other fields are the numbers that say how to
read them, kept as JSON. ``dequantize`` is the only definition of the weight, so a model in memory and the same model
read from its file compute the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from corral.core.errors import DataError
from corral.core.registry import Registry

FORMATS: Registry[type[PackedWeight]] = Registry("format of packed weights")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedWeight(ABC):
    """A weight matrix (m outputs, n inputs) as codes.

    Attributes:
        rows: m.
        columns: n.
    """

    kind: ClassVar[str]

    rows: int
    columns: int

    @abstractmethod
    def dequantize(self) -> Tensor:
        """The matrix (m, n), float32."""

    @property
    @abstractmethod
    def nominal_bits(self) -> float:
        """Bits a weight as papers count them: codes alone, without scales, zero points and masks."""

    @property
    def stored_bits(self) -> float:
        """Bits a weight of everything that is stored."""
        return 8 * sum(tensor.nbytes for tensor in self.tensors().values()) / (self.rows * self.columns)

    def tensors(self) -> dict[str, Tensor]:
        """What a file stores, by name."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if isinstance(value, Tensor)}

    def settings(self) -> dict[str, Any]:
        """The numbers that say how to read the tensors; JSON."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None and not isinstance(value, Tensor)}

    @classmethod
    def of(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: str) -> Self:
        """What ``settings`` and ``tensors`` were taken from.

        Raises:
            DataError: they are not those of this format.
        """
        known = {field.name for field in fields(cls)}
        given = {**settings, **tensors}
        if unknown := sorted(given.keys() - known):
            raise DataError(f"`{cls.kind}` weights have no `{unknown[0]}`", where=where)
        for name, value in settings.items():
            if type(value) is not int or value < 0:
                raise DataError(f"`{name}` is `{value}`, not a whole number", where=where)
        try:
            weight = cls(**given)
            weight.check()
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"not `{cls.kind}` weights: {error}", where=where) from error
        except DataError as error:
            error.where = where
            raise
        return weight

    @abstractmethod
    def check(self) -> None:
        """Whether the numbers make sense, and the tensors are of the shapes and types that they say.

        Raises:
            DataError: they are not.
        """

    def _within(self, name: str, least: int, most: int | None = None) -> None:
        """One check of ``check``: of a number."""
        value = getattr(self, name)
        if value < least or (most is not None and value > most):
            raise DataError(f"`{name}` is `{value}`, expected {least} {'or more' if most is None else f'to {most}'}")

    def _expect(self, name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """One check of ``check``."""
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise DataError(
                f"expected `{name}` of shape {shape} and {dtype}, got {tuple(tensor.shape)} and {tensor.dtype}"
            )


def half(values: Tensor) -> Tensor:
    """Positive scales rounded to float16, those too small for it to its smallest number and never to zero."""
    info = torch.finfo(torch.float16)
    return values.clamp(info.smallest_normal * info.eps, info.max).to(torch.float16)


for _name in ("affine", "normal_float", "incoherent", "partly_binary", "residual_binary", "dual_binary"):
    _class = "".join(part.capitalize() for part in _name.split("_")) + "Weight"
    FORMATS.register(_name, f"corral.models.quantized.{_name}:{_class}")
