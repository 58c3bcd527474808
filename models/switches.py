"""What can be switched on a model that is made: backends, recomputing, and gradients of its inputs.

Source of names and behaviour: reference page main_classes/model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from conf.errors import ConfigError
from conf.logging import get_logger
from models.layers.attention import attention_named
from models.options import CheckpointingOptions, read_options

logger = get_logger(__name__)
HALF = (torch.float16, torch.bfloat16)


class Switches(nn.Module):
    """What a ``TaskModel`` can be told to do otherwise."""

    supports_gradient_checkpointing: ClassVar[bool] = True

    backbone: nn.Module
    is_gradient_checkpointing: bool = False
    _input_hook: RemovableHandle | None = None
    _has_warned: bool = False

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Keep only each layer's input for the backward pass and compute the rest again.

        The options are the fields of ``CheckpointingOptions``; ``ConfigError`` for others.
        """
        path = "training.gradient_checkpointing_kwargs"
        options = read_options(CheckpointingOptions, gradient_checkpointing_kwargs, path)
        self.backbone.set_gradient_checkpointing(options)
        self.is_gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations again."""
        self.backbone.set_gradient_checkpointing(None)
        self.is_gradient_checkpointing = False

    def enable_input_require_grads(self) -> None:
        """Let gradients reach the embedded tokens of frozen embeddings, as adapters in later layers need."""
        if self._input_hook is None:
            self._input_hook = self.get_input_embeddings().register_forward_hook(_require_grad)

    def disable_input_require_grads(self) -> None:
        """Undo ``enable_input_require_grads``."""
        if self._input_hook is not None:
            self._input_hook.remove()
            self._input_hook = None

    def set_attn_implementation(self, attn_implementation: str | Mapping[str, str]) -> None:
        """Attend by another backend, a name in ``models.layers.attention.ATTENTION``.

        Or by one for each part of a model of several: ``{"text_config": "eager"}``; the key "" is the rest.
        ``ConfigError`` for an unknown backend or part.
        """
        for part, name in _by_part(self.backbone, attn_implementation, "attn_implementation"):
            attend = attention_named(name)
            for module in part.modules():
                if hasattr(module, "attend"):
                    module.attend = attend
                if hasattr(module, "attn_implementation"):
                    module.attn_implementation = name

    def set_experts_implementation(self, experts_implementation: str | Mapping[str, str]) -> None:
        """Compute experts by another backend; ``ConfigError`` for an unknown one, and without experts."""
        for part, name in _by_part(self.backbone, experts_implementation, "experts_implementation"):
            if not hasattr(part, "set_experts_implementation"):
                raise ConfigError(f"experts_implementation: a {type(part).__name__} has no experts")
            part.set_experts_implementation(name)

    def train(self, mode: bool = True) -> Self:
        """As torch's; a warning, once, where FlashAttention would train weights in half precision."""
        flash = mode and getattr(self.backbone, "attn_implementation", "") == "flash_attention_2"
        if (
            flash
            and not self._has_warned
            and any(p.requires_grad and p.dtype in HALF for p in self.parameters())
        ):
            self._has_warned = True
            logger.warning(
                "flash_attention_2: weights in half precision are not to be trained; keep them in float32 "
                "and let autocast (precision.bf16) give the kernels what they take."
            )
        return super().train(mode)


def _require_grad(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.requires_grad_(True)


def _by_part(backbone: nn.Module, chosen: str | Mapping[str, str], path: str) -> list[tuple[nn.Module, str]]:
    """The backbone, or those of its parts that are chosen for, with what is chosen."""
    if isinstance(chosen, str):
        return [(backbone, chosen)]
    parts = {"": backbone} | {
        name: getattr(backbone, name.removesuffix("_config"), None) for name in chosen if name
    }
    for name, part in parts.items():
        if part is None:
            raise ConfigError(
                f"{path}: a {type(backbone).__name__} has no part {name!r}; give one name for all"
            )
    return [(parts[name], chosen[name]) for name in sorted(chosen)]  # the whole first
