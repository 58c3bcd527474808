"""The optimizer and the learning rate of a program's training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from conf.errors import ConfigError
from conf.plugins import thing_of
from trainer.arguments import run_config
from trainer.optimizers import CATALOG as OPTIMIZERS
from trainer.optimizers.builder import ByClass
from trainer.optimizers.groups import decays, parameter_groups
from trainer.optimizers.options import OptimizerOptions
from trainer.schedules import CATALOG as SCHEDULES
from trainer.schedules import FactorRates, PlateauRates, Rates, SteppedRates


class OptimizationMethods:
    """Optimizer and schedule (reference: main_classes/trainer)."""

    model: Any
    args: Any
    config: Any
    optimizer: Any
    lr_scheduler: Any
    optimizer_cls_and_kwargs: Any
    made_optimizers: tuple[Any, Any]

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Make both, unless the program gave them."""
        self.create_optimizer()
        self.create_scheduler(num_training_steps, self.optimizer)

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Unless one was given, over the trainable parameters, norms and biases without decay."""
        if self.optimizer is None:
            section = self.config.optimizer
            groups = self._groups(section.options)
            chosen = self.optimizer_cls_and_kwargs
            if chosen is None and _overridden(self, "get_optimizer_cls_and_kwargs"):
                chosen = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            if chosen is None:
                make = thing_of(OPTIMIZERS, section.name, "optimizer.name")
                self.optimizer = make(section.options, groups)
            else:
                self.optimizer = chosen[0](groups, **chosen[1])
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule as one of torch's, unless one was given.

        The loop itself goes by the same function of the number of updates, and not by this object, unless it
        was given or comes from an override.
        """
        if self.lr_scheduler is None:
            rates = self._rates(optimizer or self.optimizer, num_training_steps)
            is_factor = isinstance(rates, FactorRates)
            self.lr_scheduler = LambdaLR(rates.optimizer, rates.factor) if is_factor else rates.scheduler
        return self.lr_scheduler

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, dict[str, Any]]:
        """The optimizer's class, or a function, and its options that training arguments ask for."""
        section = run_config(args)[0].optimizer
        make = thing_of(OPTIMIZERS, section.name, "optimizer.name")
        return (
            make.choose(section.options)
            if isinstance(make, ByClass)
            else (partial(make, section.options), {})
        )

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The parameters that weight decay is applied to: all but norms and biases."""
        return [name for name, parameter in model.named_parameters() if decays(parameter)]

    def get_num_trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def get_learning_rates(self) -> list[float]:
        """The rate of each group of the optimizer."""
        return [group["lr"] for group in self._made_optimizer().param_groups]

    def get_optimizer_group(self, param: nn.Parameter | None = None) -> Any:
        """The group that a parameter is in, or the parameters of each group."""
        groups = self._made_optimizer().param_groups
        if param is None:
            return [group["params"] for group in groups]
        return next((group for group in groups if any(p is param for p in group["params"])), None)

    # -- what the loop takes -------------------------------------------------------------------------

    def _optimization(self, names: Mapping[str, str], max_steps: int) -> Rates:
        """Make the optimizer, its parameters named as in checkpoints, and return what sets its rates.

        An override may return what it makes, or set the attribute of that name.
        """
        before = self.optimizer, self.lr_scheduler
        if whole := _overridden(self, "create_optimizer_and_scheduler"):
            self.create_optimizer_and_scheduler(max_steps)
        self.optimizer = self.create_optimizer() or self.optimizer
        optimizer = self._made_optimizer()
        if whole or self.lr_scheduler is not None or _overridden(self, "create_scheduler"):
            self.lr_scheduler = self.create_scheduler(max_steps, optimizer) or self.lr_scheduler
            follows_evaluations = isinstance(self.lr_scheduler, ReduceLROnPlateau)
            rates: Rates = (PlateauRates if follows_evaluations else SteppedRates)(self.lr_scheduler)
        else:
            self.lr_scheduler = rates = self._rates(optimizer, max_steps)
        made = self.optimizer, self.lr_scheduler
        self.made_optimizers = made[0] if before[0] is None else None, made[1] if before[1] is None else None
        _name_parameters(optimizer, self.model, names)
        return rates

    def _rates(self, optimizer: torch.optim.Optimizer, max_steps: int) -> Any:
        section = self.config.schedule
        return thing_of(SCHEDULES, section.name, "schedule.name")(section.options, optimizer, max_steps)

    def _groups(self, options: OptimizerOptions) -> list[dict[str, Any]]:
        names = {name: name for name, _ in self.model.named_parameters()}
        wanted = set(self.get_decay_parameter_names(self.model))
        groups = parameter_groups(self.model, names, options, decayed=wanted)
        if not groups:
            raise ConfigError("model: none of its parameters requires a gradient; there is nothing to train.")
        return groups

    def _made_optimizer(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            raise ConfigError("optimizer: there is none yet; call create_optimizer() or train() first.")
        return self.optimizer


def _overridden(trainer: OptimizationMethods, name: str) -> bool:
    return getattr(type(trainer), name) is not getattr(OptimizationMethods, name)


def _name_parameters(optimizer: torch.optim.Optimizer, model: nn.Module, names: Mapping[str, str]) -> None:
    """Let each group list its parameters' names, under which their state is saved.

    Raises ``ConfigError`` for a parameter that is not the model's.
    """
    known = {id(parameter): names[name] for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        if any(id(parameter) not in known for parameter in group["params"]):
            raise ConfigError(
                "optimizers: the optimizer holds a parameter that is not the model's; make it of "
                "model.parameters()."
            )
        group["param_names"] = [known[id(parameter)] for parameter in group["params"]]
