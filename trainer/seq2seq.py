"""``Seq2SeqTrainer``: evaluates and predicts with generated text where it is asked to.

Shapes: B rows, T tokens of what is generated or of the labels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.errors import ConfigError
from models.task_model import TaskModel
from trainer.generated import GenerationOptions, generate_batch, generation_options
from trainer.predictions import PredictionOutput
from trainer.trainer import Trainer

DECODED = ("decoder_input_ids", "decoder_attention_mask")


class Seq2SeqTrainer(Trainer):
    """A ``Trainer`` whose predictions are generated tokens (B, T), with ``predict_with_generate``.

    Keyword arguments of ``evaluate`` and ``predict`` go to the generation and win over ``generation_*`` of
    the training arguments. A model's own ``generate`` is used if it has one. A decoder's own prompt comes
    first in what it generates, as it does in the reference. Source: reference page main_classes/trainer.
    """

    generates: ClassVar[bool] = True
    generated_with: dict[str, Any] | None = None

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **gen_kwargs: Any,
    ) -> dict[str, float]:
        """As in ``Trainer``, by generating with ``gen_kwargs``."""
        self.generated_with = self._options(gen_kwargs)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self,
        test_dataset: Any,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
        **gen_kwargs: Any,
    ) -> PredictionOutput:
        """As in ``Trainer``, by generating with ``gen_kwargs``."""
        self.generated_with = self._options(gen_kwargs)
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    @torch.no_grad()
    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """(loss, generated tokens, labels), both padded to one length."""
        section = self.config.generation
        if not section.predict_with_generate or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        options = self._options({}) if self.generated_with is None else self.generated_with
        labels = self.labels_of(inputs)
        tokens = self._generate(self._prompts(inputs, labels), options)
        loss = None
        if labels is not None:
            loss, _, _ = super().prediction_step(model, inputs, True, ignore_keys)
        longest = max([tokens.shape[-1], *([labels.shape[-1]] if isinstance(labels, Tensor) else [])])
        longest = max(longest, options.get("max_length") or 0)
        padded = None if labels is None else self._pad(labels, longest)
        return loss, self._pad(tokens, longest), padded

    def _prompts(self, inputs: dict[str, Any], labels: Any) -> dict[str, Any]:
        """What the generation is given: no labels, and no decoder's inputs that were made of them."""
        started = inputs.get("decoder_input_ids")
        is_made = started is not None and started.shape == getattr(labels, "shape", None)
        left_out = (*self.label_names, *(DECODED if is_made else ()))
        return {name: value for name, value in inputs.items() if name not in left_out}

    def _options(self, gen_kwargs: dict[str, Any]) -> dict[str, Any]:
        """The generation's options: those of the arguments under those of a call."""
        options = generation_options(self.config.generation)
        named = {name: value for name, value in vars(options).items() if value != getattr(DEFAULTS, name)}
        if "max_new_tokens" in gen_kwargs:
            named.pop("max_length", None)
        return {**named, **{name: value for name, value in gen_kwargs.items() if value is not None}}

    def _generate(self, prompts: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
        model: Any = self.model
        if not isinstance(model, TaskModel):
            if not hasattr(model, "generate"):
                raise ConfigError(
                    f"predict_with_generate: {type(model).__name__} has no generate(); leave it out."
                )
            return model.generate(**prompts, **options)
        unknown = sorted(options.keys() - vars(DEFAULTS).keys())
        if unknown:
            raise ConfigError(f"predict_with_generate: {unknown[0]!r} is no option of this generation.")
        return generate_batch(
            model, prompts["input_ids"], prompts.get("attention_mask"), replace(DEFAULTS, **options)
        )

    def _pad(self, tokens: Tensor, length: int) -> Tensor:
        """Tokens (B, T) filled up with the padding token to (B, length)."""
        config = getattr(self.model, "config", None)
        owners = (self.processing_class, self.processing_class, config)
        names = ("pad_token_id", "eos_token_id", "pad_token_id")
        found = (getattr(owner, name, None) for owner, name in zip(owners, names, strict=True))
        pad = next((token for token in found if isinstance(token, int)), None)
        if pad is None:
            raise ConfigError(
                "predict_with_generate: neither the processing_class nor the model's config has a "
                "pad_token_id to make the predictions of one length; set one."
            )
        return F.pad(tokens, (0, length - tokens.shape[-1]), value=pad)


DEFAULTS = GenerationOptions()
