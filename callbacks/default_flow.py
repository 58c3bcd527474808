"""Sets the control's flags from the plan, so that the loop logs, evaluates and saves when it is due."""

from __future__ import annotations

from typing import Any

from trainer.state import TrainerCallback, TrainerControl, TrainerState


class DefaultFlowCallback(TrainerCallback):
    """Always the first callback: the others see its flags and may set their own."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step, plan = state.global_step, kwargs["plan"]
        if plan.log.includes(step) and (args.logging_strategy == "steps" or step == 1):
            control.should_log = True
        if args.eval_strategy == "steps" and plan.evaluate.includes(step):
            control.should_evaluate = True
        if args.save_strategy == "steps" and plan.save.includes(step):
            control.should_save = True
        if step >= state.max_steps:
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.logging_strategy == "epoch":
            control.should_log = True
        if args.eval_strategy == "epoch" and state.epoch >= args.eval_delay:
            control.should_evaluate = True
        if args.save_strategy == "epoch":
            control.should_save = True
