"""What the tests of Liger's kernels compare, for both of their processes."""

from __future__ import annotations

# Each kernel's switch, and the function of Liger's that it stands for.
FUNCTIONS = {
    "rope": "LigerRopeFunction",
    "rms_norm": "LigerRMSNormFunction",
    "swiglu": "LigerSiLUMulFunction",
    "cross_entropy": "LigerCrossEntropyFunction",
    "fused_linear_cross_entropy": "LigerFusedLinearCrossEntropyFunction",
}
KERNELS = {name: {other: other == name for other in FUNCTIONS} for name in FUNCTIONS}  # each one alone
ALL: dict[str, bool] = {}  # as Liger's own defaults: all but the loss on whole logits
