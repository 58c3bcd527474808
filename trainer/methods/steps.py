"""One batch: its loss, its backward pass, and what the model predicts for it.

Shapes: B rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.errors import ConfigError
from models.heads.chunked import IGNORED
from models.task_model import TaskModel
from trainer.ranks.ranks import unwrap


class StepMethods:
    """What is done with one batch (reference: main_classes/trainer)."""

    model: Any
    args: Any
    compute_loss_func: Any
    label_names: list[str]
    model_accepts_loss_kwargs: bool
    parameters_each_token: int
    ranks: Any
    run: Any
    config: Any

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch, by default what the model returns first; with its outputs if asked.

        ``num_items_in_batch`` is the number of labels of the whole optimizer step: a loss that is divided by
        it does not depend on how the step is split. One that is not is taken as the mean of its batch, and a
        model or override that gives such a one says so by ``model_accepts_loss_kwargs = False``.
        """
        smoothing = self.config.training.label_smoothing_factor
        labels = None
        if smoothing or self.compute_loss_func is not None:
            labels = inputs.get("labels")
            inputs = {name: value for name, value in inputs.items() if name != "labels"}
        if self.model_accepts_loss_kwargs and num_items_in_batch is not None:
            inputs = {**inputs, "num_items_in_batch": num_items_in_batch}
        outputs = model(**inputs)
        if self.compute_loss_func is not None:
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
        elif smoothing:
            if labels is None:
                raise ConfigError(
                    f"label_smoothing_factor: {smoothing} smooths the column 'labels', and a batch has only "
                    f"{', '.join(inputs)}; leave it out."
                )
            shifted = self.shifts_labels
            loss = smoothed_loss(logits_of(outputs), labels, smoothing, num_items_in_batch, shifted=shifted)
        else:
            loss = loss_of(outputs, inputs)
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward pass of one micro-batch; returns its loss, detached."""
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        self.run.objective.propagate(loss)
        return loss.detach()

    @torch.no_grad()
    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """(loss, logits, labels) of a batch, each None where there is none or it was not asked for.

        Logits are all that the model returns but the loss and ``ignore_keys``; several make a tuple.
        """
        inputs = self._prepare_inputs(inputs)
        if ignore_keys is None:
            config = getattr(self.model, "config", None)
            ignore_keys = getattr(config, "keys_to_ignore_at_inference", ["past_key_values"])
        labels = self.labels_of(inputs)
        with self.compute_loss_context_manager():
            if labels is None and (self.label_names or not returns_loss(self.model)):
                loss, outputs = None, model(**inputs)
            else:
                count = self.count_items(inputs) if self.counts_items else None
                loss, outputs = self.compute_loss(
                    model, dict(inputs), return_outputs=True, num_items_in_batch=count
                )
                loss = loss.detach().mean()
        if prediction_loss_only:
            return loss, None, None
        return loss, _logits(outputs, [*ignore_keys, "loss"], skip_first=loss is not None), labels

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """The contexts that a loss is computed in: here the autocast of the run's precision."""
        return self.autocast_smart_context_manager()

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> AbstractContextManager[Any]:
        """Nothing by itself: the loop enters the autocast of the run's precision around a forward pass."""
        return nullcontext()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """Up to ``num_batches`` batches, and the number of labels in them where the loss wants it."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not batches or not self.counts_items or self.labels_of(batches[0]) is None:
            return batches, None
        return batches, torch.tensor(sum(map(self.count_items, batches)), device=device)

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """The operations of a forward and backward pass: as the model estimates them, else 6 a parameter.

        The latter of each number in ``main_input_name`` and of models that say how many parameters they have
        (``num_parameters``); 0 of others. Source: Kaplan et al. 2020, section 2.1.
        """
        estimate = getattr(self.model, "floating_point_ops", None)
        if estimate is not None and not isinstance(self.model, TaskModel):
            return int(estimate(inputs))
        main = inputs.get(getattr(self.model, "main_input_name", "input_ids"))
        return 0 if main is None else 6 * main.numel() * self.parameters_each_token

    # -- what the loss counts ------------------------------------------------------------------------

    @property
    def counts_items(self) -> bool:
        """Whether the loss is divided by the number of labels of the whole step."""
        return self.model_accepts_loss_kwargs or self.compute_loss_func is not None

    @property
    def shifts_labels(self) -> bool:
        """Whether a row's label is predicted from the tokens before it, so that the first never counts."""
        if isinstance(self.model, TaskModel):
            return getattr(self.model.head, "name", None) == "causal_lm"
        config = getattr(self.model, "config", None)
        by_name = type(self.model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
        causal = by_name or getattr(self.model, "loss_type", None) == "ForCausalLM"
        return causal and not getattr(config, "is_encoder_decoder", False)

    def labels_of(self, inputs: Mapping[str, Any]) -> Any:
        """The labels of a batch, a tuple if there are several columns of them; None if one is missing."""
        found = tuple(inputs.get(name) for name in self.label_names)
        if not found or any(labels is None for labels in found):
            return None
        return found[0] if len(found) == 1 else found

    def count_items(self, inputs: Mapping[str, Any]) -> int:
        """How many labels of a batch count: whole numbers but -100, and all that are values or marks."""
        labels = self.labels_of(inputs)
        labels = labels[0] if isinstance(labels, tuple) else labels
        if not isinstance(labels, Tensor):
            return 1
        if labels.ndim > 1 and self.shifts_labels:
            labels = labels[..., 1:]
        return labels.numel() if labels.is_floating_point() else int((labels != IGNORED).sum())

    def _prepare_inputs(self, inputs: Any) -> Any:
        """The batch on this process's device."""
        return self.ranks.to_device(inputs)


def accepts_loss_kwargs(model: nn.Module) -> bool:
    """Whether a model divides its loss by ``num_items_in_batch`` when it is given."""
    model = unwrap(model)
    if hasattr(model, "accepts_loss_kwargs"):
        return bool(model.accepts_loss_kwargs)
    if isinstance(model, TaskModel):
        return "num_items_in_batch" in getattr(model.head, "inputs", ())
    parameters = inspect.signature(model.forward).parameters
    return "num_items_in_batch" in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )


def returns_loss(model: nn.Module) -> bool:
    """Whether a model's forward gives a loss without labels, by a ``return_loss`` that is true by itself."""
    parameter = inspect.signature(unwrap(model).forward).parameters.get("return_loss")
    return parameter is not None and parameter.default is True


def loss_of(outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
    """What a model returns first, or calls ``loss``; ``ConfigError`` if there is none."""
    if isinstance(outputs, Tensor):
        return outputs
    named = outputs.get("loss") if hasattr(outputs, "get") else None
    if named is None and hasattr(outputs, "keys"):
        raise ConfigError(
            f"model: it returned no loss, only {', '.join(outputs.keys())}, for the inputs "
            f"{', '.join(inputs)}; give it labels, or the Trainer a compute_loss_func."
        )
    return outputs[0] if named is None else named


def logits_of(outputs: Any) -> Tensor:
    """The scores among a model's outputs, which come first where there is no loss."""
    named = outputs.get("logits") if hasattr(outputs, "get") else None
    return outputs[0] if named is None else named


def smoothed_loss(
    logits: Tensor,
    labels: Tensor,
    smoothing: float,
    num_items_in_batch: Tensor | int | None,
    *,
    shifted: bool,
) -> Tensor:
    """Cross-entropy (B, ..., V) with a share ``smoothing`` of each target spread over all V classes.

    A sum over ``num_items_in_batch``, or the mean of the batch. Source: Szegedy et al. 2016,
    arXiv:1512.00567.
    """
    if shifted:
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    flat = labels.flatten().long()
    total = F.cross_entropy(
        logits.flatten(0, -2).float(),
        flat,
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )
    return total / ((flat != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


def _logits(outputs: Any, ignored: list[str], *, skip_first: bool) -> Any:
    """What a model returns besides its loss; a single value by itself."""
    if isinstance(outputs, Tensor):
        return None if skip_first else outputs.detach()
    if hasattr(outputs, "items"):
        values = tuple(value for name, value in outputs.items() if name not in ignored)
    else:
        values = tuple(outputs[1:] if skip_first else outputs)
    values = tuple(_detached(value) for value in values)
    return values[0] if len(values) == 1 else values or None


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, list):  # perhaps of objects, one a row
        return list(map(_detached, value))
    return tuple(map(_detached, value)) if isinstance(value, tuple) else value
