"""A backbone with a head: the model that is trained, evaluated, saved and asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from conf.errors import ConfigError
from models.config import ModelConfig
from models.config_files import CONFIG_FILE
from models.heads.head import Head
from models.inspection import Inspection
from models.layers.initialization import draw_weights
from models.masks import Masks
from models.switches import Switches
from models.vocabulary import Vocabulary
from models.weights.converted import original_layout
from models.weights.keymap import KeyMap
from models.weights.names import checkpoint_names
from models.weights.safetensors import weight_files
from models.weights.save import MAX_SHARD_SIZE, parse_size, save_tensors, save_weights
from models.weights.sources import SAFE

Compute = Callable[[nn.Module, Tensor], Any]


# What parts of a model keep of its configuration.
KEPT = ("pad_token_id", "problem_type")


class TaskModel(Vocabulary, Switches, Masks, Inspection):
    """Token ids to hidden states by the backbone, and those to a task's outputs by the head.

    Without a head the backbone's outputs are returned. ``keymap`` gives its parameters their checkpoint
    names, ``architecture`` is what a ``config.json`` calls it. The weights are undefined until
    ``init_weights`` or ``models.weights.load_weights`` has run. ``model_tags`` are for its card.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: Head | None,
        config: ModelConfig,
        *,
        keymap: KeyMap,
        architecture: str,
    ):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.config = config
        self.model_tags: list[str] = []
        self.keymap, self.architecture = keymap, architecture
        self._caches = "use_cache" in signature(backbone.forward).parameters
        self.tie_weights()

    def forward(
        self, inputs: Mapping[str, Any] | Tensor | None = None, compute: Compute | None = None, **named: Any
    ) -> Any:
        """Run the backbone on ``inputs`` (and what is given by name), then the head.

        With ``compute`` the result is ``compute(head, hidden)`` for hidden states (B, T, D), or for whatever
        else the head ``reads``, called in here so that sharded parameters are whole when it uses the head;
        ``labels`` are then the caller's affair, and keys and values are kept only if ``use_cache`` is among
        the inputs.
        Without it: the head's outputs, with a loss when ``labels`` are among the inputs, as the reference's
        models return them; a plain tuple with ``return_dict=False``. ``model(input_ids)``, ``model(batch)``
        and ``model(input_ids=..., labels=...)`` all do.
        """
        given = {"input_ids": inputs} if isinstance(inputs, Tensor) else dict(inputs or {})
        given = {name: value for name, value in (given | named).items() if value is not None}
        task = {name: given.pop(name) for name in getattr(self.head, "inputs", ()) if name in given}
        return_dict = given.pop("return_dict", self.config.return_dict)
        for name in ("output_hidden_states", "output_attentions"):
            given.setdefault(name, getattr(self.config, name))
        if (positions := given.pop("cache_position", None)) is not None:
            given.setdefault("position_ids", positions[None])
        if compute is not None:
            if self._caches:
                given.setdefault("use_cache", False)
            return compute(self.head, *self._read(given))
        output = self.backbone(**(given if self.head is None else self.head.prepare(given)))
        if self.head is not None:
            output = self.head.outputs(output, given, **task)
        return output if return_dict else output.to_tuple()

    def _read(self, given: dict[str, Any]) -> list[Tensor]:
        """What the head's ``forward`` is called with."""
        if self.head is None:
            return [self.backbone(**given).last_hidden_state]
        output = self.backbone(**self.head.prepare(given))
        return [output[name] for name in self.head.reads]

    @property
    def config(self) -> ModelConfig:
        """The configuration; a new one reaches the parts too, which do not change their shapes by it."""
        return self._config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        self._config = config
        if hasattr(self.backbone, "config"):
            self.backbone.config = config
        for name in KEPT:
            if hasattr(self.head, name):
                setattr(self.head, name, getattr(config, name))

    @torch.no_grad()
    def init_weights(self, seed: int | None = None) -> None:
        """Fresh weights: normal(0, initializer_range), zero biases and padding row, norms one.

        Drawn in the modules' order from torch's generator, or from one seeded with ``seed``. Works after
        ``to_empty`` on a model that was made on the meta device.
        """
        std, generator = self.config.initializer_range, None
        if seed is not None:
            generator = torch.Generator(self.get_input_embeddings().weight.device).manual_seed(seed)
        draw_weights(self.backbone, std, generator)
        if self.head is not None:
            draw_weights(self.head, std, generator)

    def cast(self, dtype: torch.dtype) -> TaskModel:
        """Give floating-point weights this type; those that the family keeps in fp32 stay at least that."""
        self.to(dtype)
        for kept in getattr(self.backbone, "keep_in_fp32", ()):
            for name, tensor in chain(self.backbone.named_parameters(), self.backbone.named_buffers()):
                if re.search(kept, name):
                    tensor.data = tensor.data.to(torch.promote_types(dtype, torch.float32))
        return self

    def initialize_weights(self) -> None:
        """``init_weights``, by the reference's other name."""
        self.init_weights()

    def post_init(self) -> None:
        """Draw the weights and tie what is tied, as the reference's models do at the end of their making."""
        self.init_weights()
        self.tie_weights()

    def add_model_tags(self, tags: str | list[str]) -> None:
        """Add tags for the model's card; those that are there stay."""
        tags = [tags] if isinstance(tags, str) else tags
        self.model_tags = list(dict.fromkeys([*self.model_tags, *tags]))

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = MAX_SHARD_SIZE,
        variant: str | None = None,
        save_original_format: bool = True,
    ) -> None:
        """Write ``config.json`` and ``model.safetensors``, in shards beyond ``max_shard_size``.

        The folder is made if missing; other libraries load it. Other processes than the main one write
        nothing. ``state_dict``: tensors to save in place of the model's, by their names in it. ``variant``
        "fp16" writes ``model.fp16.safetensors``. ``save_original_format=False`` keeps the layout that
        weights have in memory where checkpoints have another. ``ConfigError`` for a ``state_dict`` of another
        model and for no size, before the folder is touched.
        """
        if not is_main_process:
            return
        parse_size(max_shard_size)
        given = None if state_dict is None else self._checkpoint_items(state_dict)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        old = (path for pattern in weight_files(SAFE, variant) for path in folder.glob(pattern))
        for path in [*old, folder / CONFIG_FILE]:
            path.unlink(missing_ok=True)  # other folders may hold the same file by a hard link
        options = {"max_shard_size": max_shard_size, "variant": variant}

        def open_file(name: str) -> BinaryIO:
            return (folder / name).open("wb")

        if given is None:
            save_weights(self, open_file, save_original_format=save_original_format, **options)
        else:
            converters = self.keymap.converters if save_original_format else ()
            named = original_layout(given, converters, self.config)
            save_tensors(named, open_file, **options)
        self.saved_config().save_pretrained(folder)

    def _checkpoint_items(self, state_dict: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
        """(key, tensor) of a state dict of this model's; of tied ones the first."""
        if foreign := state_dict.keys() - self.state_dict(keep_vars=True).keys():
            raise ConfigError(f"state_dict: this model has no {min(foreign)}; give tensors by its own names")
        keys = checkpoint_names(self)
        return [(keys[name], tensor) for name, tensor in state_dict.items() if name in keys]

    def saved_config(self) -> ModelConfig:
        """The configuration with what only the model knows: its architecture's name and its weights' type."""
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        return replace(self.config, architectures=(self.architecture,), dtype=dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TaskModel:
        # Moving off the meta device replaces each parameter alone, which would part the tied ones.
        super()._apply(fn, recurse)
        self.tie_weights()
        return self
