"""What training arguments know beside their values: which of them were given, and setters of whole groups.

An option without effect is a mistake only where it was given, so values that were given are told apart from
defaults: passed to the constructor or to a setter, or assigned. A setter's own default is no value given.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from typing import Any, Concatenate, ParamSpec, TypeVar

from conf.errors import ConfigError
from conf.plugins import nearest

P = ParamSpec("P")
S = TypeVar("S", bound="ArgumentSetters")


class _Word(StrEnum):
    """Text that is one of a few words; any other is a ``ConfigError``."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        if value is False and "no" in set(cls):  # YAML reads a bare `no` as false
            return cls("no")
        raise ConfigError(f"{cls.__name__}: {value!r} is none of its values; {nearest(str(value), cls)}")


class IntervalStrategy(_Word):
    """When something is done."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"


class SaveStrategy(_Word):
    """When a checkpoint is written; ``best``: when an evaluation found a better model."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"
    BEST = "best"


class HubStrategy(_Word):
    """What is published, and when."""

    END = "end"
    EVERY_SAVE = "every_save"
    CHECKPOINT = "checkpoint"
    ALL_CHECKPOINTS = "all_checkpoints"


STRATEGIES: dict[str, type[_Word]] = {
    "eval_strategy": IntervalStrategy,
    "logging_strategy": IntervalStrategy,
    "save_strategy": SaveStrategy,
    "hub_strategy": HubStrategy,
}


def default_of(field: Field[Any]) -> Any:
    """The default of a dataclass's field; ``MISSING`` where a value is required."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _sets(
    **names: str,
) -> Callable[[Callable[Concatenate[S, P], S]], Callable[Concatenate[S, P], S]]:
    """A setter: parameter -> the argument that it sets. Its body does what is not an assignment of one."""

    def decorate(body: Callable[Concatenate[S, P], S]) -> Callable[Concatenate[S, P], S]:
        signature = inspect.signature(body)

        @functools.wraps(body)
        def setter(self: S, /, *args: P.args, **kwargs: P.kwargs) -> S:
            bound = signature.bind(self, *args, **kwargs)
            passed = bound.arguments.keys() & names.keys()
            bound.apply_defaults()
            before = self.given
            for parameter, name in names.items():
                setattr(self, name, bound.arguments[parameter])
            self.__dict__["_given"] = before.union(names[parameter] for parameter in passed)
            return body(self, *args, **kwargs)

        return setter

    return decorate


class ArgumentSetters:
    """The mutable side of ``TrainingArguments``."""

    do_train: bool
    do_eval: bool
    do_predict: bool
    eval_strategy: IntervalStrategy | str
    push_to_hub: bool
    _given: frozenset[str]
    _made: bool

    def __new__(cls, *args: Any, **named: Any) -> Any:
        self = super().__new__(cls)
        known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
        passed = {**dict(zip(known, args, strict=False)), **named}
        given = set(passed)
        if passed.keys() >= known.keys():  # a copy, or a dump that is read back, writes out the defaults too
            given = {name for name in known if passed[name] != default_of(known[name])}
        self.__dict__.update(_given=frozenset(given), _made=False)
        return self

    def __post_init__(self) -> None:
        self.__dict__["_made"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in STRATEGIES:
            value = _word(name, value)
        super().__setattr__(name, value)
        if self._made and name in self.__dataclass_fields__:  # type: ignore[attr-defined]
            self.__dict__["_given"] = self._given | {name}

    @property
    def given(self) -> frozenset[str]:
        """The names of the arguments that were given, apart from defaults."""
        return self._given

    @_sets(
        learning_rate="learning_rate",
        batch_size="per_device_train_batch_size",
        weight_decay="weight_decay",
        num_epochs="num_train_epochs",
        max_steps="max_steps",
        gradient_accumulation_steps="gradient_accumulation_steps",
        seed="seed",
        gradient_checkpointing="gradient_checkpointing",
    )
    def set_training(
        self: S,
        learning_rate: float = 5e-5,
        batch_size: int = 8,
        weight_decay: float = 0,
        num_epochs: float = 3,
        max_steps: int = -1,
        gradient_accumulation_steps: int = 1,
        seed: int = 42,
        gradient_checkpointing: bool = False,
    ) -> S:
        """The training itself; sets ``do_train``."""
        self.do_train = True
        return self

    @_sets(
        strategy="eval_strategy",
        steps="eval_steps",
        batch_size="per_device_eval_batch_size",
        accumulation_steps="eval_accumulation_steps",
        delay="eval_delay",
        loss_only="prediction_loss_only",
    )
    def set_evaluate(
        self: S,
        strategy: str | IntervalStrategy = "no",
        steps: int = 500,
        batch_size: int = 8,
        accumulation_steps: int | None = None,
        delay: float | None = None,
        loss_only: bool = False,
    ) -> S:
        """Evaluation during training; a strategy other than ``no`` sets ``do_eval``."""
        self.do_eval = self.eval_strategy != IntervalStrategy.NO
        return self

    @_sets(batch_size="per_device_eval_batch_size", loss_only="prediction_loss_only")
    def set_testing(self: S, batch_size: int = 8, loss_only: bool = False) -> S:
        """Prediction on data held out; sets ``do_predict``."""
        self.do_predict = True
        return self

    @_sets(
        strategy="save_strategy",
        steps="save_steps",
        total_limit="save_total_limit",
        on_each_node="save_on_each_node",
    )
    def set_save(
        self: S,
        strategy: str | IntervalStrategy = "steps",
        steps: int = 500,
        total_limit: int | None = None,
        on_each_node: bool = False,
    ) -> S:
        """When checkpoints are saved, and how many are kept."""
        return self

    @_sets(
        strategy="logging_strategy",
        steps="logging_steps",
        report_to="report_to",
        level="log_level",
        first_step="logging_first_step",
        nan_inf_filter="logging_nan_inf_filter",
        on_each_node="log_on_each_node",
        replica_level="log_level_replica",
    )
    def set_logging(
        self: S,
        strategy: str | IntervalStrategy = "steps",
        steps: int = 500,
        report_to: str | list[str] = "none",
        level: str = "passive",
        first_step: bool = False,
        nan_inf_filter: bool = False,
        on_each_node: bool = False,
        replica_level: str = "passive",
    ) -> S:
        """When the run logs, and to whom. The defaults are this setter's, as in the reference."""
        return self

    @_sets(
        model_id="hub_model_id",
        strategy="hub_strategy",
        token="hub_token",
        private_repo="hub_private_repo",
        always_push="hub_always_push",
        revision="hub_revision",
    )
    def set_push_to_hub(
        self: S,
        model_id: str,
        strategy: str | HubStrategy = "every_save",
        token: str | None = None,
        private_repo: bool | None = None,
        always_push: bool = False,
        revision: str | None = None,
    ) -> S:
        """Publishing to a model hub; sets ``push_to_hub``."""
        self.push_to_hub = True
        return self

    @_sets(
        name="optim",
        learning_rate="learning_rate",
        weight_decay="weight_decay",
        beta1="adam_beta1",
        beta2="adam_beta2",
        epsilon="adam_epsilon",
        args="optim_args",
    )
    def set_optimizer(
        self: S,
        name: str = "adamw_torch",
        learning_rate: float = 5e-5,
        weight_decay: float = 0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        args: str | None = None,
    ) -> S:
        """The optimizer and its options."""
        return self

    @_sets(
        name="lr_scheduler_type",
        num_epochs="num_train_epochs",
        max_steps="max_steps",
        warmup_steps="warmup_steps",
        warmup_ratio="warmup_ratio",
    )
    def set_lr_scheduler(
        self: S,
        name: str = "linear",
        num_epochs: float = 3.0,
        max_steps: int = -1,
        warmup_steps: float = 0,
        warmup_ratio: float | None = None,
    ) -> S:
        """The learning rate over the steps, and how many there are."""
        return self

    @_sets(
        train_batch_size="per_device_train_batch_size",
        eval_batch_size="per_device_eval_batch_size",
        drop_last="dataloader_drop_last",
        num_workers="dataloader_num_workers",
        pin_memory="dataloader_pin_memory",
        persistent_workers="dataloader_persistent_workers",
        prefetch_factor="dataloader_prefetch_factor",
        auto_find_batch_size="auto_find_batch_size",
        ignore_data_skip="ignore_data_skip",
        sampler_seed="data_seed",
    )
    def set_dataloader(
        self: S,
        train_batch_size: int = 8,
        eval_batch_size: int = 8,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = True,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        auto_find_batch_size: bool = False,
        ignore_data_skip: bool = False,
        sampler_seed: int | None = None,
    ) -> S:
        """How rows become batches."""
        return self


def _word(name: str, value: Any) -> _Word:
    """A strategy's word; the error names the argument."""
    kind = STRATEGIES[name]
    try:
        return kind(str(value.value) if hasattr(value, "value") else value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error.problems[0].partition(': ')[2]}") from None
