"""The configuration of the AFMoE family: mixtures of experts with windows on most layers (Arcee's Trinity).

Defaults are those of the reference page ``model_doc/afmoe``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from conf.errors import ConfigError
from models import config_checks as checks
from models.decoder_config import DecoderConfig
from models.rope import RopeParameters

LayerType = Literal["sliding_attention", "full_attention"]

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 176,
        "moe_intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "num_shared_experts": 1,
        "global_attn_every_n_layers": 3,
        "sliding_window": 64,
        "mup_enabled": True,
        "tie_word_embeddings": True,
    },
    "small": {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 688,
        "moe_intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 2048,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_shared_experts": 1,
        "sliding_window": 256,
        "mup_enabled": True,
        "tie_word_embeddings": True,
    },
    "trinity-mini": {
        "moe_intermediate_size": 1024,
        "num_dense_layers": 2,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_shared_experts": 1,
        "route_scale": 2.826,
        "sliding_window": 2048,
        "mup_enabled": True,
    },
}

# What files state for the code they were first published with. This is how a token's experts are chosen here
# and in the reference, whatever a file says; one that says otherwise is of another model.
CHOICE_OF_EXPERTS = {
    "score_func": "sigmoid",
    "route_norm": True,
    "n_group": 1,
    "num_expert_groups": 1,
}


@dataclass(frozen=True, kw_only=True)
class AfmoeConfig(DecoderConfig):
    """An AFMoE's shape and numerics.

    The first ``num_dense_layers`` have a plain MLP of ``intermediate_size``, the others ``num_experts`` of
    ``moe_intermediate_size``, ``num_experts_per_tok`` of them for a token, and ``num_shared_experts`` for
    all. ``layer_types`` says which layers see ``sliding_window`` tokens and turn by position, and which see
    all and do not; by default the latter are every ``global_attn_every_n_layers``-th. ``mup_enabled``
    multiplies embeddings by the square root of ``hidden_size``. ``rope_theta`` is that of
    ``rope_parameters``, which can be left out where there is nothing else to say.
    Raises ``ConfigError`` listing every field that cannot be.
    """

    model_type: ClassVar[str] = "afmoe"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    vocab_size: int = 200192
    hidden_size: int = 2048
    intermediate_size: int = 6144
    num_attention_heads: int = 16
    head_dim: int | None = 128
    max_position_embeddings: int = 16384
    rms_norm_eps: float = 1e-5
    rope_theta: float | None = None
    rope_parameters: RopeParameters | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    moe_intermediate_size: int = 1408
    num_dense_layers: int = 1
    num_experts: int = 64
    num_experts_per_tok: int = 6
    num_shared_experts: int = 2
    route_scale: float = 1.0
    output_router_logits: bool = False
    global_attn_every_n_layers: int = 4
    sliding_window: int = 1024
    layer_types: tuple[LayerType, ...] | None = None
    mup_enabled: bool = False

    def __post_init__(self) -> None:
        if self.layer_types is None:
            every, depth = max(self.global_attn_every_n_layers, 1), self.num_hidden_layers
            types = ("full_attention", *["sliding_attention"] * (every - 1))
            self._set("layer_types", tuple(types[number % every] for number in range(1, depth + 1)))
        else:
            self._set("layer_types", tuple(self.layer_types))
        if self.rope_parameters is None:
            theta = {} if self.rope_theta is None else {"rope_theta": self.rope_theta}
            self._set("rope_parameters", RopeParameters(**theta))
        super().__post_init__()
        if self.rope_theta not in (None, self.rope_parameters.rope_theta):
            self._refuse(["rope_theta: rope_parameters have another one; give one of the two"])
        self._set("rope_theta", self.rope_parameters.rope_theta)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """How many tokens back each layer looks, itself included; None for all of them."""
        window = {"sliding_attention": self.sliding_window, "full_attention": None}
        return tuple(window[kind] for kind in self.layer_types)

    @classmethod
    def _modernize(cls, data: dict[str, Any]) -> dict[str, Any]:
        rope = data.get("rope_parameters") or {}
        if nested := sorted(set(rope) & set(get_args(LayerType))):
            raise ConfigError(
                f"rope_parameters: has settings for each type of layer ({', '.join(nested)}); give one set, "
                "it is used by the layers with sliding_attention alone"
            )
        return super()._modernize(data)

    def _shape_problems(self) -> list[str]:
        return super()._shape_problems() + checks.sizes(
            self,
            "moe_intermediate_size",
            "num_experts",
            "num_experts_per_tok",
            "num_shared_experts",
            "global_attn_every_n_layers",
            "sliding_window",
        )

    def _value_problems(self) -> list[str]:
        problems, depth = super()._value_problems(), self.num_hidden_layers
        if not 0 <= self.num_dense_layers <= depth:
            problems.append(
                f"num_dense_layers: must be from 0 to num_hidden_layers, {depth}, got {self.num_dense_layers}"
            )
        if len(self.layer_types) != depth:
            problems.append(f"layer_types: needs {depth}, one for each layer, got {len(self.layer_types)}")
        known = get_args(LayerType)
        for name in sorted(set(self.layer_types) - set(known)):
            problems.append(f"layer_types: unknown {name!r}, known are {', '.join(known)}")
        if self.num_experts_per_tok > self.num_experts:
            problems.append(
                f"num_experts_per_tok: {self.num_experts_per_tok} are more than num_experts, "
                f"{self.num_experts}"
            )
        return problems + self._choice_problems()

    def _choice_problems(self) -> list[str]:
        given = {name: self.extra.get(name) for name in CHOICE_OF_EXPERTS}
        return [
            f"{name}: {value!r} is not how experts are chosen here, only {CHOICE_OF_EXPERTS[name]!r} is"
            for name, value in given.items()
            if value not in (None, CHOICE_OF_EXPERTS[name])
        ]
