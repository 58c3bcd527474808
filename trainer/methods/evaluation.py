"""Looking at data sets with a program's model: metrics and predictions."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from models.loading import torch_dtype
from trainer.evaluator import ComputeMetrics, Evaluator
from trainer.methods.checks import in_words_of_programs
from trainer.methods.program import in_type
from trainer.predictions import EvalLoopOutput, PredictionOutput
from trainer.reports import speed_metrics


class EvaluationMethods:
    """Evaluation and prediction (reference: main_classes/trainer)."""

    args: Any
    config: Any
    model: Any
    model_wrapped: Any
    ranks: Any
    memory: Any
    eval_dataset: Any
    compute_metrics: Any
    preprocess_logits_for_metrics: Any
    callback_handler: Any
    is_in_train: bool
    ignored_keys: list[str] | None
    get_eval_dataloader: Any
    get_test_dataloader: Any
    log: Any
    _objective: Any

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Metrics on a data set, on each of a dict of them, or on the Trainer's own; they are logged too."""
        with in_words_of_programs():
            return self._evaluated(eval_dataset, ignore_keys, metric_key_prefix)

    def _evaluated(
        self, eval_dataset: Any, ignore_keys: list[str] | None, metric_key_prefix: str
    ) -> dict[str, float]:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, dict):
            metrics: dict[str, float] = {}
            for name, one in dataset.items():
                chosen = one if eval_dataset is not None else name
                metrics |= self.evaluate(chosen, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        with self.memory.stage("eval"):
            loader, started = self.get_eval_dataloader(eval_dataset), time.time()
            loss_only = True if self.compute_metrics is None else None
            output = self.evaluation_loop(loader, "Evaluation", loss_only, ignore_keys, metric_key_prefix)
        metrics = self._with_speed(output, metric_key_prefix, started, "eval")
        self.log(metrics)
        self.callback_handler("on_evaluate", metrics=metrics)
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predictions for a data set, in its order and padded with -100, and metrics where it has labels."""
        with in_words_of_programs(), self.memory.stage("test"):
            loader, started = self.get_test_dataloader(test_dataset), time.time()
            output = self.evaluation_loop(loader, "Prediction", None, ignore_keys, metric_key_prefix)
        metrics = self._with_speed(output, metric_key_prefix, started, "test")
        self.callback_handler("on_predict", metrics=metrics)
        return PredictionOutput(output.predictions, output.label_ids, metrics)

    def evaluation_loop(
        self,
        dataloader: Iterable[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Look at this process's batches; predictions of all processes, unless only the loss is asked for.

        Outside a training the model computes in half precision where ``*_full_eval`` asks for it.
        """
        loss_only = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        evaluation = self.config.evaluation
        compute = ComputeMetrics(
            function=None if loss_only else self.compute_metrics,
            preprocess_logits=self.preprocess_logits_for_metrics,
            include=evaluation.include_for_metrics,
            batch_eval=evaluation.batch_eval_metrics and not loss_only,
            concat=evaluation.eval_do_concat_batches,
            accumulation_steps=evaluation.eval_accumulation_steps,
            gather_object=evaluation.eval_use_gather_object,
            main_input_name=getattr(self.model, "main_input_name", "input_ids"),
        )
        keep = None if loss_only or compute.batch_eval else True
        evaluator = Evaluator(self._objective(), self.ranks, {}, compute=compute)
        dtype = None if self.is_in_train else torch_dtype(self.config.precision.full_eval)
        model = self.model_wrapped if self.is_in_train else self.model
        self.ignored_keys = ignore_keys
        with in_type(self.model, dtype):
            return evaluator.loop(
                model,
                dataloader,
                prefix=metric_key_prefix,
                after_batch=lambda: self.callback_handler("on_prediction_step"),
                keep=keep,
            )

    def _with_speed(self, output: EvalLoopOutput, prefix: str, started: float, stage: str) -> dict[str, Any]:
        size = self.config.evaluation.per_device_eval_batch_size * self.ranks.world_size
        steps = -(-output.num_samples // size)
        speed = speed_metrics(prefix, started, output.num_samples, steps)
        return {**output.metrics, **speed, **self.memory.metrics(stage)}
