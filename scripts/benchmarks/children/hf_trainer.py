"""The ``transformers`` Trainer on prepared documents. ``hf_trainer.py FOLDER BATCH STEPS [TOKENS]``.

With TOKENS the rows are pieces of that many tokens of the documents joined, all of them targets; without it
they are the documents themselves, each batch padded to its longest.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from scripts.benchmarks.children.report import StepClock


class Clock(StepClock, TrainerCallback):
    """Notes the end of each step."""


def main() -> None:
    folder, batch, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    config = LlamaConfig.from_pretrained(folder)
    assert config.pad_token_id is not None
    fill = {"input_ids": config.pad_token_id, "labels": -100, "attention_mask": 0}
    rows = pieces(folder, int(sys.argv[4])) if len(sys.argv) > 4 else documents(folder)

    def collate(features: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        columns = {name: [feature[name] for feature in features] for name in features[0]}
        return {name: pad_sequence(columns[name], True, fill[name]) for name in columns}

    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output,
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=1e-3,
            weight_decay=0.01,
            optim="adamw_torch_fused",
            lr_scheduler_type="cosine",
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        model = LlamaForCausalLM(config)
        trainer = Trainer(model, arguments, data_collator=collate, train_dataset=rows, callbacks=[Clock()])
        trainer.train()


def pieces(folder: Path, tokens: int) -> list[dict[str, Tensor]]:
    """Rows of equally many tokens."""
    ids = torch.from_numpy(np.load(folder / "input_ids.npy").astype(np.int64))
    whole = ids[: len(ids) // tokens * tokens].view(-1, tokens)
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in whole]


def documents(folder: Path) -> list[dict[str, Tensor]]:
    """One row for each document, with its targets."""
    ids, masks, offsets = (np.load(folder / f"{name}.npy") for name in ("input_ids", "loss_mask", "offsets"))
    labels = np.where(masks == 1, ids, -100).astype(np.int64)
    columns = {"input_ids": ids.astype(np.int64), "attention_mask": np.ones_like(labels), "labels": labels}
    ranges = list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
    whole = {name: torch.from_numpy(values) for name, values in columns.items()}
    return [{name: values[start:stop] for name, values in whole.items()} for start, stop in ranges]


main()
