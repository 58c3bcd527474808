"""The model and the callbacks of a program's training: made, saved, exchanged."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from callbacks.default_flow import DefaultFlowCallback
from conf.errors import ConfigError
from processors import Tokenizer
from processors.rendering import stop_ids
from trainer.data.datasets import find_labels
from trainer.manifest import move_up, publish
from trainer.methods.checks import refuse_smoothing
from trainer.methods.steps import accepts_loss_kwargs
from trainer.model_files import ModelFiles, model_files, save_processor
from trainer.state import TrainerCallback


class ModelMethods:
    """Model and callbacks (reference: main_classes/trainer)."""

    args: Any
    config: Any
    ranks: Any
    model: Any
    model_init: Any
    model_files: ModelFiles | None
    processing_class: Any
    callbacks: list[TrainerCallback]
    callback_handler: Any
    publisher: Any
    output_dir: Path
    place_model_on_device: bool
    is_in_train: bool

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model and its processor into a folder that other libraries load, on the main process."""
        if not self.ranks.is_main:
            return
        target = Path(output_dir or self.output_dir)
        staged = target / ".saved"
        with publish(staged) as folder:
            self._files().save(self.model, folder)
            save_processor(self.processing_class, folder)
        move_up(staged, target)
        if self.config.hub.push_to_hub and not _internal_call and self.publisher is not None:
            self.publisher.push_final("Model save")

    def _files(self) -> ModelFiles:
        """How this model is saved: while training, with the configuration that it had before."""
        if self.is_in_train and self.model_files is not None:
            return self.model_files
        ends = stop_ids(self.processing_class) if isinstance(self.processing_class, Tokenizer) else ()
        return model_files(self.model, max_shard_size=self.config.checkpoint.max_shard_size, stop_ids=ends)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """A fresh model of ``model_init``, which takes nothing or a trial."""
        takes = len(inspect.signature(self.model_init).parameters)
        if takes > 1:
            raise ConfigError("model_init: it takes no argument, or one, the trial.")
        model = self.model_init(trial) if takes else self.model_init()
        if model is None:
            raise ConfigError("model_init: it returned None; let it return the model.")
        return model

    def _take(self, model: nn.Module) -> None:
        """Make a module the one that is trained."""
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model: a torch.nn.Module is wanted, a {type(model).__name__} was given.")
        if self.config.training.label_smoothing_factor:
            refuse_smoothing(model)
        self.model = self.model_wrapped = model.to(self.ranks.device) if self.place_model_on_device else model
        names = self.config.data.label_names
        self.label_names = find_labels(model) if names is None else list(names)
        self.model_accepts_loss_kwargs = accepts_loss_kwargs(model)
        count = getattr(model, "num_parameters", None)
        self.parameters_each_token = 0 if count is None else int(count(exclude_embeddings=True))

    # -- callbacks -----------------------------------------------------------------------------------

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Add a callback, or one made of a class, after those that are there."""
        made = callback() if isinstance(callback, type) else callback
        self.callbacks.append(made)
        self.callback_handler.add(made)

    def pop_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> TrainerCallback | None:
        """Take a callback, or the first of a class, out and return it; None if it is not there.

        Raises ``ConfigError`` for the one that says when to log, evaluate, save and stop.
        """
        if callback is DefaultFlowCallback or isinstance(callback, DefaultFlowCallback):
            raise ConfigError(
                "callbacks: without DefaultFlowCallback nothing would be logged, evaluated, saved or ended; "
                "set logging_strategy, eval_strategy and save_strategy instead."
            )
        for found in self.callbacks:
            if found is callback or (isinstance(callback, type) and isinstance(found, callback)):
                self.callbacks.remove(found)
                self.callback_handler.remove(found)
                return found
        return None

    def remove_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Take a callback, or the first of a class, out."""
        self.pop_callback(callback)
