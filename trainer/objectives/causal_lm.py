"""Causal language modelling: predict each supervised token from those before it (pretraining, SFT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from conf.errors import ConfigError, DataError
from models.heads.causal_lm import shift_labels
from models.heads.chunked import IGNORED
from trainer import expert_balance
from trainer.data.loading import SilentBatch
from trainer.objectives.objective import Batch, Loss, Prediction
from trainer.objectives.options import CausalLMOptions


class CausalLM:
    """Summed negative log-likelihood of the labels, shifted by one; -100 is not counted.

    The term is called ``loss``; its weight is the number of supervised tokens. ``label_smoothing`` of each
    target's probability is spread over the vocabulary, in evaluation too, as the reference's Trainer does.
    """

    head = "causal_lm"
    smooths_labels = True
    coefficients: ClassVar[Mapping[str, float]] = {"loss": 1.0}

    def __init__(self, options: CausalLMOptions, *, label_smoothing: float = 0.0):
        self.options, self.label_smoothing = options, label_smoothing

    def collator(self, *, packing: bool) -> str:
        return "flattening" if packing else "language_modeling"

    def suits(self, model: Any) -> None:
        """``ConfigError`` for a model whose tokens see what they are to predict, and for idle options."""
        if not getattr(model.backbone, "is_causal", True):
            raise ConfigError(
                "model.config.is_decoder: causal_lm predicts the next token, which a token of this "
                f"{model.config.model_type} sees; set it to true, in its config.json where model.path is "
                "given."
            )
        if getattr(model.config, "add_cross_attention", False):
            raise ConfigError(
                "model.config.add_cross_attention: causal_lm has no encoder's states to look at; set it to "
                "false."
            )
        expert_balance.refuse_without_experts(model, self.options.expert_bias_update_rate)

    def weights(self, batch: Batch) -> Mapping[str, int]:
        # A document's first label is always ignored, and so nothing is lost by not looking at column 0.
        # Counted by numpy, which has less to set up than torch: the batch is still on the host.
        return {"loss": int(np.count_nonzero(batch["labels"].cpu().numpy()[:, 1:] != IGNORED))}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        targets = shift_labels(batch["labels"])  # (B, T)
        inputs = _inputs(batch)

        def summed(head: Any, hidden: Tensor) -> Tensor:
            return head.nll(hidden, targets, self.label_smoothing)

        loss = model(inputs, compute=summed)
        counts = not isinstance(batch, SilentBatch)
        return Loss(terms={"loss": loss}, metrics=expert_balance.loads(model, counts=counts))

    def predict(self, model: nn.Module, batch: Batch, *, loss_only: bool = False) -> Prediction:
        """The summed loss and, unless ``loss_only``, the logits (B, T, V) and labels, not shifted."""
        labels = batch.get("labels")
        weights = {} if labels is None else self.weights(batch)
        if loss_only:
            return Prediction(terms={} if labels is None else self(model, batch).terms, weights=weights)
        targets = None if labels is None else shift_labels(labels)

        def scored(head: Any, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
            return head(hidden), None if targets is None else head.nll(hidden, targets, self.label_smoothing)

        logits, loss = model(_inputs(batch), compute=scored)
        losses = None if loss is None else (loss / weights["loss"]).repeat(len(logits))
        return Prediction(
            terms={} if loss is None else {"loss": loss},
            weights=weights,
            logits=logits,
            labels=labels,
            losses=losses,
            next_token=True,
        )

    def predictions(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        """Each document's supervised ``tokens``, their mean ``loss`` (without smoothing) and ``perplexity``.

        Loss and perplexity are None without such tokens. Raises ``DataError`` for a batch without labels.
        """
        if "labels" not in batch:
            raise DataError("predict: causal_lm scores the labels of a batch, and this one has none.")
        targets = shift_labels(batch["labels"])
        scores = model(_inputs(batch), compute=lambda head, hidden: head.log_probs(hidden, targets))
        rows = zip(_documents(scores.cpu().double(), batch), _documents(targets.cpu(), batch), strict=True)
        written: list[dict[str, Any]] = []
        for log_probs, labels in rows:
            tokens = int((labels != IGNORED).sum())
            loss = -log_probs.sum() / tokens if tokens else None
            written.append(
                {
                    "loss": None if loss is None else loss.item(),
                    "perplexity": None if loss is None else loss.exp().item(),
                    "tokens": tokens,
                }
            )
        return written

    def after_update(self, model: nn.Module, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Balance the experts, if the model has any; gives how their load was spread."""
        if (load := metrics.get(expert_balance.LOAD)) is None:
            return {}
        rate = self.options.expert_bias_update_rate
        expert_balance.balance(model, load, expert_balance.UPDATE_RATE if rate is None else rate)
        return expert_balance.measures(load)


def _inputs(batch: Batch) -> dict[str, Tensor]:
    """What the model is given: everything but the labels."""
    return {name: value for name, value in batch.items() if name != "labels"}


def _documents(values: Tensor, batch: Batch) -> Sequence[Tensor]:
    """Values (B, T), or (1, N) packed, of each document."""
    if "cu_seqlens" not in batch:
        return values.unbind()
    return values[0].split(batch["cu_seqlens"].diff().tolist())
