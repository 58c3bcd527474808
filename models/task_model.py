"""A backbone with a head: the model that is trained, evaluated, saved and asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.config import CONFIG_FILE, ModelConfig
from models.options import CheckpointingOptions, read_options
from models.weights.keymap import KeyMap
from models.weights.save import MAX_SHARD_SIZE, save_weights

Compute = Callable[[nn.Module, Tensor], Any]


class TaskModel(nn.Module):
    """Token ids to hidden states by the backbone, and those to a task's outputs by the head.

    Without a head the backbone's outputs are returned. ``keymap`` gives its parameters their checkpoint
    names. The weights are undefined until ``init_weights`` or ``models.weights.load_weights`` has run.
    """

    main_input_name: ClassVar[str] = "input_ids"  # what a batch's size is counted in

    def __init__(self, backbone: nn.Module, head: nn.Module | None, config: ModelConfig):
        super().__init__()
        self.backbone, self.head, self.config = backbone, head, config
        name = None if head is None else head.name
        family = type(backbone).__module__.rpartition(".")[0]
        table = import_module(f"{family}.convert")
        self.keymap, self.architecture = _keymap(table, name), table.ARCHITECTURES[name]
        self.tie_weights()

    def forward(
        self, inputs: Mapping[str, Any] | Tensor | None = None, compute: Compute | None = None, **named: Any
    ) -> Any:
        """Run the backbone on ``inputs`` (and what is given by name), then the head.

        With ``compute`` the result is ``compute(head, hidden)`` for hidden states (B, T, D), called in here
        so that sharded parameters are whole when it uses the head; ``labels`` are then the caller's affair,
        and keys and values are kept only if ``use_cache`` is among the inputs.
        Without it: the head's outputs, with a loss when ``labels`` are among the inputs, as the reference's
        models return them. ``model(input_ids)``, ``model(batch)`` and ``model(input_ids=..., labels=...)``
        all do.
        """
        given = {"input_ids": inputs} if isinstance(inputs, Tensor) else dict(inputs or {})
        given |= named
        task = {name: given.pop(name) for name in getattr(self.head, "inputs", ()) if name in given}
        if compute is not None:
            given.setdefault("use_cache", False)
            return compute(self.head, self.backbone(**given).last_hidden_state)
        if self.head is None:
            return self.backbone(**given)
        return self.head.outputs(self.backbone(**given), given, **task)

    def tie_weights(self) -> None:
        """Let the head share the token embeddings where the configuration says so."""
        if getattr(self.config, "tie_word_embeddings", False) and hasattr(self.head, "tie"):
            self.head.tie(self.get_input_embeddings())

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embeddings."""
        return self.backbone.get_input_embeddings()

    @torch.no_grad()
    def init_weights(self, seed: int | None = None) -> None:
        """Fresh weights: normal(0, initializer_range), zero biases and padding row, norms one.

        Drawn in the modules' order from torch's generator, or from one seeded with ``seed``. Works after
        ``to_empty`` on a model that was made on the meta device.
        """
        std, generator = self.config.initializer_range, None
        if seed is not None:
            generator = torch.Generator(self.get_input_embeddings().weight.device).manual_seed(seed)
        for module in self.backbone.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=std, generator=generator)
            elif hasattr(module, "reset_parameters"):  # norms
                module.reset_parameters()
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        if self.head is not None:
            self.head.init_weights(std, generator)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Keep only each layer's input for the backward pass and compute the rest again.

        The options are the fields of ``CheckpointingOptions``; ``ConfigError`` for others.
        """
        path = "training.gradient_checkpointing_kwargs"
        options = read_options(CheckpointingOptions, gradient_checkpointing_kwargs, path)
        self.backbone.set_gradient_checkpointing(options)

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations again."""
        self.backbone.set_gradient_checkpointing(None)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model holds, shared ones once.

        ``only_trainable`` leaves out frozen ones, ``exclude_embeddings`` those of embedding tables, and with
        them those of a head that shares one.
        """
        tables = {id(m.weight) for m in self.modules() if exclude_embeddings and isinstance(m, nn.Embedding)}
        return sum(
            parameter.numel()
            for parameter in self.parameters()
            if id(parameter) not in tables and (parameter.requires_grad or not only_trainable)
        )

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """About how many operations forward and backward pass take: 6 x tokens x parameters but embeddings.

        Source: Kaplan et al., 2020, section 2.1. 0 for inputs without ``input_ids``.
        """
        tokens = inputs.get(self.main_input_name)
        return 0 if tokens is None else 6 * tokens.numel() * self.num_parameters(exclude_embeddings=True)

    def save_pretrained(self, folder: str | Path, *, max_shard_size: int | str = MAX_SHARD_SIZE) -> None:
        """Write ``config.json`` and ``model.safetensors``, in shards beyond ``max_shard_size``.

        The folder is made if missing; other libraries load it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for old in [*folder.glob("model*.safetensors*"), folder / CONFIG_FILE]:
            old.unlink(missing_ok=True)  # other folders may hold the same file by a hard link
        save_weights(self, lambda name: (folder / name).open("wb"), max_shard_size=max_shard_size)
        self.saved_config().save_pretrained(folder)

    def saved_config(self) -> ModelConfig:
        """The configuration with what only the model knows: its architecture's name and its weights' type."""
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        return replace(self.config, architectures=(self.architecture,), dtype=dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TaskModel:
        # Moving off the meta device replaces each parameter alone, which would part the tied ones.
        super()._apply(fn, recurse)
        self.tie_weights()
        return self


def _keymap(table: ModuleType, head: str | None) -> KeyMap:
    """A family's ``convert`` module and a head's names as one map."""
    names = {} if head is None else table.HEADS[head]
    heads = ((f"head.{ours}", theirs) for ours, theirs in names.items())
    return KeyMap(
        renames=(*heads, *table.RENAMES, ("backbone.", table.PREFIX)),
        legacy=(("", "backbone."),),  # a bare backbone's own file has no prefix
        ignored=table.IGNORED,
    )
