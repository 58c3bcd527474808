"""Typed options of what can be done to a model that is already made; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from conf.decode import decode_fields
from conf.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CheckpointingOptions:
    """How layers are computed again in the backward pass: the arguments of ``torch.utils.checkpoint``.

    Raises ``ValueError`` for what the reentrant kind would ignore.
    """

    use_reentrant: bool = False
    preserve_rng_state: bool = True
    determinism_check: Literal["default", "none"] = "default"
    debug: bool = False
    early_stop: bool = True

    def __post_init__(self) -> None:
        idle = {
            "determinism_check": self.determinism_check != "default",
            "debug": self.debug,
            "early_stop": not self.early_stop,
        }
        for name in (name for name, given in idle.items() if given and self.use_reentrant):
            raise ValueError(f"{name}: does nothing with use_reentrant=true; leave out one of the two.")


@dataclass(frozen=True, kw_only=True)
class LigerKernels:
    """Which of Liger's kernels are used; names and defaults are those of Liger's own switch for a Llama.

    Raises ``ValueError`` for two kernels of the same loss.
    """

    rope: bool = True
    rms_norm: bool = True
    swiglu: bool = True
    cross_entropy: bool = False
    fused_linear_cross_entropy: bool = True

    def __post_init__(self) -> None:
        if self.cross_entropy and self.fused_linear_cross_entropy:
            raise ValueError(
                "cross_entropy: fused_linear_cross_entropy, on unless set to false, is a kernel of the same "
                "loss; set one of the two to false."
            )


def read_options(cls: type[T], given: Mapping[str, Any] | None, path: str) -> T:
    """A ``cls`` of plain data; ``ConfigError`` with every problem, each at its place below ``path``."""
    values = decode_fields(cls, given or {}, path)
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{path}.{error}") from None
