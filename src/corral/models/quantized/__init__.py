"""Linear layers whose weights are stored as packed codes: the formats, the layer that runs them, and their files.

``quant`` fits weights into these formats; everything that only runs a model reads them from here. A folder of such
layers is described in ``folder``.
"""

from corral.models.quantized.affine import AffineWeight
from corral.models.quantized.dual_binary import DualBinaryWeight
from corral.models.quantized.incoherent import IncoherentWeight
from corral.models.quantized.linear import QuantizedLinear
from corral.models.quantized.normal_float import NormalFloatWeight
from corral.models.quantized.packed_weight import PackedWeight
from corral.models.quantized.partly_binary import PartlyBinaryWeight
from corral.models.quantized.residual_binary import ResidualBinaryWeight

__all__ = [
    "AffineWeight",
    "DualBinaryWeight",
    "IncoherentWeight",
    "NormalFloatWeight",
    "PackedWeight",
    "PartlyBinaryWeight",
    "QuantizedLinear",
    "ResidualBinaryWeight",
]
