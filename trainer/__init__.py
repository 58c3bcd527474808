"""The run: command line, plan, data order, objectives, optimizers, schedules, ranks, the loop, checkpoints.

Names for Python programs load on first use, so that importing this package loads no torch.
"""

from __future__ import annotations

from typing import Any

_PUBLIC = {
    "Adafactor": "trainer.optimizers.adafactor",
    "AdafactorSchedule": "trainer.optimizers.adafactor",
    "BestRun": "trainer.predictions",
    "EvalLoopOutput": "trainer.predictions",
    "EvalPrediction": "trainer.predictions",
    "ExportableState": "trainer.state",
    "HfArgumentParser": "trainer.argument_parser",
    "HubStrategy": "trainer.training_arguments",
    "IntervalStrategy": "trainer.training_arguments",
    "PredictionOutput": "trainer.predictions",
    "SaveStrategy": "trainer.training_arguments",
    "SchedulerType": "trainer.schedules.options",
    "Seq2SeqTrainer": "trainer.seq2seq",
    "Seq2SeqTrainingArguments": "trainer.training_arguments",
    "TrainOutput": "trainer.predictions",
    "Trainer": "trainer.trainer",
    "TrainerCallback": "trainer.state",
    "TrainerControl": "trainer.state",
    "TrainerState": "trainer.state",
    "TrainingArguments": "trainer.training_arguments",
    "enable_full_determinism": "trainer.seeding",
    "get_adafactor_schedule": "trainer.optimizers.adafactor",
    "get_constant_schedule": "trainer.schedules.functions",
    "get_constant_schedule_with_warmup": "trainer.schedules.functions",
    "get_cosine_schedule_with_warmup": "trainer.schedules.functions",
    "get_cosine_with_hard_restarts_schedule_with_warmup": "trainer.schedules.functions",
    "get_cosine_with_min_lr_schedule_with_warmup": "trainer.schedules.functions",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate": "trainer.schedules.functions",
    "get_inverse_sqrt_schedule": "trainer.schedules.functions",
    "get_linear_schedule_with_warmup": "trainer.schedules.functions",
    "get_polynomial_decay_schedule_with_warmup": "trainer.schedules.functions",
    "get_reduce_on_plateau_schedule": "trainer.schedules.functions",
    "get_scheduler": "trainer.schedules.functions",
    "get_wsd_schedule": "trainer.schedules.functions",
    "set_seed": "trainer.seeding",
    "torch_distributed_zero_first": "trainer.ranks.first",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    # Imported here: `python -m trainer` comes by while the current folder is still on its path, and another
    # `conf` may lie there.
    from conf.plugins import lazy

    return lazy(__name__, _PUBLIC)(name)
