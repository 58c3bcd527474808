"""Settings of rotary position embeddings, without torch: the types the field uses and what each one needs.

The arithmetic is in ``models.layers.rotary``. Keys and defaults are those of upstream's ``rope_parameters``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from conf.errors import ConfigError
from conf.plugins import nearest

RopeType = Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3"]

_ALWAYS = {"rope_type", "rope_theta"}
_REQUIRED = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "yarn": {"factor"},
    "longrope": {"short_factor", "long_factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
}
_OPTIONAL = {
    "yarn": {
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    },
    "longrope": {"original_max_position_embeddings", "attention_factor", "factor"},
    "llama3": {"original_max_position_embeddings"},
}
SCALED_FROM_ORIGINAL = ("yarn", "longrope", "llama3")


@dataclass(frozen=True, kw_only=True)
class RopeParameters:
    """How positions turn queries and keys.

    ``rope_theta`` is the longest wavelength's base. ``factor`` stretches the context (linear, dynamic, yarn,
    llama3). ``short_factor`` and ``long_factor`` (longrope) are one divisor for each pair of a head's
    channels, for documents up to and beyond ``original_max_position_embeddings`` tokens.
    Raises ``ValueError("setting: what is wrong")`` for what a type lacks, and for what has no effect on it.
    """

    rope_type: RopeType = "default"
    rope_theta: float = 10000.0
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None

    def __post_init__(self) -> None:
        for name in ("short_factor", "long_factor"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.rope_type not in _REQUIRED:
            raise ValueError(f"rope_type: {self.rope_type!r} is none of {', '.join(_REQUIRED)}")
        given = {f.name for f in fields(self) if getattr(self, f.name) is not None}
        for name in sorted(_REQUIRED[self.rope_type] - given):
            raise ValueError(f"{name}: rope_type {self.rope_type} needs it")
        for name in sorted(given - self.used_by(self.rope_type)):
            raise ValueError(f"{name}: has no effect with rope_type {self.rope_type}")
        for name in ("rope_theta", "factor"):
            if name in given and getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be greater than 0, got {getattr(self, name)}")
        if self.rope_type == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"high_freq_factor: must be greater than low_freq_factor, {self.low_freq_factor}"
            )

    @staticmethod
    def used_by(rope_type: str) -> set[str]:
        """The names of the settings that a rope type reads."""
        return _ALWAYS | _REQUIRED.get(rope_type, set()) | _OPTIONAL.get(rope_type, set())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From a mapping as a user writes it; ``ConfigError`` for an unknown key or an impossible value."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ConfigError(
                f"rope_parameters.{name}: no such key; {nearest(name, known)}" for name in unknown
            )
        try:
            return cls(**data)
        except ValueError as error:
            raise ConfigError(f"rope_parameters.{error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The settings that are given, as ``config.json`` holds them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}


def modern_rope_parameters(data: dict[str, Any], theta: float = 10000.0) -> dict[str, Any]:
    """Bring a file's rope settings into one ``rope_parameters`` mapping, in place of the older keys.

    ``rope_theta``, ``rope_scaling`` (with ``type``) and a top-level ``original_max_position_embeddings`` move
    in. What the rope type has no use for goes to ``extra``, so that it is written back. ``theta`` is the
    family's, for a file that gives none.
    """
    given_theta = data.pop("rope_theta", None)
    rope = dict(data.pop("rope_scaling", None) or data.get("rope_parameters") or {})
    legacy_type = rope.pop("type", None)
    rope_type = rope.setdefault("rope_type", legacy_type or "default")
    if rope.get("rope_theta") is None:
        rope["rope_theta"] = theta if given_theta is None else given_theta
    original = data.get("original_max_position_embeddings")
    if original is not None and rope_type in SCALED_FROM_ORIGINAL:
        rope["original_max_position_embeddings"] = original
    unused = {key: value for key, value in rope.items() if key not in RopeParameters.used_by(rope_type)}
    data["rope_parameters"] = {key: value for key, value in rope.items() if key not in unused}
    unused = {key: value for key, value in unused.items() if value is not None}
    if unused:
        data["extra"] = {**data.get("extra", {}), "rope_parameters": unused}
    return data
