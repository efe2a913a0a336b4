"""What a quantization method is: settings, what it needs to see, a fold of scales into a block, a fit of one Linear."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal, NamedTuple

from pydantic import Field, field_validator

from corral.core.config import Config
from corral.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from corral.models.quantized import PackedWeight
    from corral.quant.blocks import CalibratedBlock
    from corral.quant.statistics import InputStatistics

Needs = Literal["nothing", "channels", "hessian"]
"""What a method must know of a Linear's inputs: nothing, magnitudes of channels and some rows, or H as well."""
Propagation = Literal["quantized", "full"]
"""Whether a block is calibrated on the outputs of the quantized blocks before it, or of the original ones."""


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """One Linear to be fitted.

    Attributes:
        name: in the model, for messages and seeds.
        weight: (m, n), float32; a method may change it.
        inputs: what it was seen to read; ``None`` where the method needs nothing.
    """

    name: str
    weight: Tensor
    inputs: InputStatistics | None

    def hessian(self) -> Tensor:
        """H (n, n) = (2 / N) sum x x^T; the caller's to change.

        Raises:
            ConfigError: there is none: the frame was not asked for it.
        """
        if self.inputs is None or self.inputs.hessian is None:
            raise ConfigError("there are no second moments of the inputs", where=self.name)
        return self.inputs.hessian.clone()


class Bits(NamedTuple):
    """Bits a weight.

    Attributes:
        nominal: as papers count them; the most, where the weights decide.
        stored: of all that the ``corral`` layout stores for a layer.
    """

    nominal: float
    stored: float


HALF_BITS: Final = 16
FLOAT_BITS: Final = 32


class Method(Config, ABC):
    """Settings of a method and what it does; subclasses are registered in ``METHODS``."""

    needs: ClassVar[Needs] = "nothing"
    propagation: ClassVar[Propagation] = "quantized"
    folds: ClassVar[Mapping[tuple[str, ...], str]] = {}
    """Where ``fold`` puts scales: groups of Linears and what comes before each; see ``quant.folding``."""

    def check(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Whether the settings fit Linears of these shapes (m, n), before any work.

        Raises:
            ConfigError: they do not.
        """

    def fold(self, block: CalibratedBlock) -> None:
        """Move scales between the norms and Linears of a block, in place, without changing what it computes."""

    @abstractmethod
    def expected_bits(self, rows: int, columns: int) -> Bits:
        """Bits a weight of a Linear of this shape, known before any work."""

    @abstractmethod
    def fit(self, layer: LinearLayer) -> PackedWeight:
        """The packed weight of one Linear, after ``fold`` of its block."""


class Grouped(Method):
    """A method with a bit width and groups of columns.

    Attributes:
        bits: of a code.
        group_size: columns that share a scale; ``None`` for one scale a row.
    """

    bits: int = Field(default=4, ge=1, le=8)
    group_size: int | None = 64

    @field_validator("group_size")
    @classmethod
    def _positive(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise ValueError("expected a number of columns, or none for one scale a row")
        return value

    def check(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """See ``Method``: groups must divide the columns."""
        check_groups(self.group_size, shapes)

    def expected_bits(self, rows: int, columns: int) -> Bits:
        """See ``Method``: codes, and a scale and zero point a group."""
        return Bits(self.bits, self.bits + (HALF_BITS + self.bits) / self.columns_of(columns))

    def columns_of(self, columns: int) -> int:
        """Columns of a group in a Linear of so many."""
        return self.group_size or columns


class UniformGrid(Grouped):
    """A method whose codes are levels of the grids of ``fit_grid``.

    Attributes:
        symmetric: put zero in the middle of the grid and store no zero points.
        mse: shrink ranges where that lowers the error.
    """

    symmetric: bool = False
    mse: bool = False

    def expected_bits(self, rows: int, columns: int) -> Bits:
        """See ``Method``: a symmetric grid stores no zero points."""
        zeros = 0 if self.symmetric else self.bits
        return Bits(self.bits, self.bits + (HALF_BITS + zeros) / self.columns_of(columns))


def check_groups(group_size: int | None, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Whether groups divide the columns of every Linear.

    Raises:
        ConfigError: they do not; the hint names sizes that do.
    """
    misfit = next((name for name, (_, columns) in shapes.items() if columns % (group_size or columns)), None)
    if misfit is None:
        return
    fitting = [size for size in (128, 64, 32, 16) if all(columns % size == 0 for _, columns in shapes.values())]
    offered = ", ".join([*map(str, fitting), "or one scale a row (`channel`)"])
    raise ConfigError(
        f"groups of `{group_size}` do not divide the {shapes[misfit][1]} columns of `{misfit}`",
        where="group_size",
        hint=f"Use {offered}.",
    )
