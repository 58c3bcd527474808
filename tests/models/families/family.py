"""What the shared suite needs to know of a family, and how both implementations are made and asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models import ModelConfig, TaskModel, build_model
from models.weights import named_checkpoint_tensors

LENGTHS = (13, 20, 5)  # tokens of the three rows of a batch
VOCAB, LABELS = 96, 3
LABELLED = ("sequence_classification", "token_classification")


@dataclass(frozen=True, kw_only=True)
class FamilyCase:
    """One family, compared with an independent implementation of it.

    ``small``: fields of a small configuration, with ``vocab_size`` ``VOCAB``, all dropout 0 and a wide
    ``initializer_range`` (so that attention is far from uniform); ``shapes`` vary it by name. ``oracles``:
    the independent class of each task. ``token_types``: whether token type ids are an input. ``caches``:
    whether it decodes with a cache; ``causal``: fields that make it do so. ``positions``: whether position
    ids may be given.
    ``flips``: the share of tokens that rounding may send another way altogether, as to other experts.
    """

    config: type[ModelConfig]
    oracle_config: type
    small: Mapping[str, Any]
    shapes: Mapping[str, Mapping[str, Any]]
    oracles: Mapping[str | None, type]
    token_types: bool = False
    caches: bool = True
    causal: Mapping[str, Any] = field(default_factory=dict)
    flips: float = 0.0

    def ours(
        self, task: str | None, fields: Mapping[str, Any] | None = None, *, attn: str = "sdpa", seed: int = 0
    ) -> TaskModel:
        """A small model in fp32 whose biases and norms are random too, in evaluation mode."""
        labels = {"num_labels": LABELS} if task in LABELLED else {}
        config = self.config(**{**self.small, **labels, **(fields or {})})
        model = build_model(config, task, attn_implementation=attn, seed=seed).eval()
        generator = torch.Generator().manual_seed(100 + seed)
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                # Biases, norms and the like start as constants, some weights as zero.
                if (tensor.dim() == 1 and tensor.requires_grad) or not tensor.any():
                    tensor.add_(torch.empty_like(tensor).uniform_(-0.3, 0.3, generator=generator))
        return model

    def theirs(self, task: str | None, model: TaskModel, *, attn: str = "sdpa") -> nn.Module:
        """The independent implementation with the weights of ``model``, in evaluation mode."""
        config = self.oracle_config(**model.saved_config().to_dict())
        config._attn_implementation = attn
        oracle = self.oracles[task](config).eval()
        missing, unexpected = oracle.load_state_dict(dict(named_checkpoint_tensors(model)), strict=False)
        own = dict(oracle.named_parameters(remove_duplicate=False))
        loaded = {id(own[name]) for name in own.keys() - set(missing)}  # tied ones under any of their names
        assert all(id(parameter) in loaded for parameter in own.values()), missing
        assert not unexpected
        return oracle


def padded(side: str, *, pad: int = 0, token_types: bool = False) -> dict[str, Tensor]:
    """Three rows of ``LENGTHS`` tokens, padded on one side."""
    generator = torch.Generator().manual_seed(1)
    shape = (len(LENGTHS), max(LENGTHS))
    ids, mask = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long)
    types = torch.zeros(shape, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        place = slice(0, length) if side == "right" else slice(shape[1] - length, shape[1])
        ids[row, place] = torch.randint(4, VOCAB, (length,), generator=generator)
        mask[row, place] = 1
        types[row, place] = (torch.arange(length) > length // 2).long()
    batch = {"input_ids": ids, "attention_mask": mask}
    return batch | ({"token_type_ids": types} if token_types else {})


def labelled(task: str | None, model: TaskModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch with what a task learns from."""
    mask = batch["attention_mask"]
    generator = torch.Generator().manual_seed(2)
    words = torch.randint(0, VOCAB, mask.shape, generator=generator)
    classes = torch.tensor([1, 0, 1])
    masked = words.masked_fill((mask == 0) | (torch.rand(mask.shape, generator=generator) < 0.5), -100)
    first_tokens = mask.cumsum(-1) * mask <= 1
    match task:
        case None:
            return batch
        case "causal_lm":
            return batch | {"labels": batch["input_ids"].masked_fill(first_tokens, -100)}
        case "masked_lm":
            return batch | {"labels": masked}
        case "pretraining":
            pairs = {"next_sentence_label", "sentence_order_label"} & set(model.head.inputs)
            return batch | {"labels": masked} | dict.fromkeys(pairs, classes)
        case "next_sentence" | "sequence_classification":
            return batch | {"labels": classes}
        case "token_classification":
            return batch | {"labels": (words % LABELS).masked_fill(mask == 0, -100)}
        case "question_answering":
            # The last one lies outside the text: it is not counted.
            return batch | {
                "start_positions": torch.tensor([0, 3, mask.shape[1] + 7]),
                "end_positions": torch.tensor([4, 3, 2]),
            }
        case "multiple_choice":
            choices = {name: torch.stack([value, value.roll(1, 0)], dim=1) for name, value in batch.items()}
            return choices | {"labels": torch.tensor([0, 1, 1])}
    raise AssertionError(f"no batch is known for {task}")


def probe(output: Any, mask: Tensor) -> Tensor:
    """A scalar of a backbone's output that every weight has a part in."""
    total = (output["last_hidden_state"][mask.bool()] ** 2).sum()
    pooled = output.get("pooler_output")
    return total if pooled is None else total + (pooled**3).sum()
