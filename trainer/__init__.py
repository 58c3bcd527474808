"""The run: command line, plan, data order, objectives, optimizers, ranks, the loop, checkpoints.

Names for Python programs load on first use, so that importing this package loads no torch.
"""

from __future__ import annotations

from typing import Any

_PUBLIC = {
    "BestRun": "trainer.predictions",
    "EvalLoopOutput": "trainer.predictions",
    "EvalPrediction": "trainer.predictions",
    "HfArgumentParser": "trainer.argument_parser",
    "HubStrategy": "trainer.training_arguments",
    "IntervalStrategy": "trainer.training_arguments",
    "PredictionOutput": "trainer.predictions",
    "SaveStrategy": "trainer.training_arguments",
    "Seq2SeqTrainer": "trainer.seq2seq",
    "Seq2SeqTrainingArguments": "trainer.training_arguments",
    "TrainOutput": "trainer.predictions",
    "Trainer": "trainer.trainer",
    "TrainerCallback": "trainer.state",
    "TrainerControl": "trainer.state",
    "TrainerState": "trainer.state",
    "TrainingArguments": "trainer.training_arguments",
    "enable_full_determinism": "trainer.seeding",
    "set_seed": "trainer.seeding",
    "torch_distributed_zero_first": "trainer.ranks.first",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    # Imported here: `python -m trainer` comes by while the current folder is still on its path, and another
    # `conf` may lie there.
    from conf.plugins import lazy

    return lazy(__name__, _PUBLIC)(name)
