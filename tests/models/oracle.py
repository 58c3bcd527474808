"""The independent implementation that our models are compared with, on the same random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from models import LlamaConfig, TaskModel, build_model
from models.weights import named_checkpoint_tensors

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # wide, so that attention is far from uniform
}

ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_theta": 500.0},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn-mscale": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.5, 2.0, 3.0, 4.0],
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}


def ours(head: str | None = "causal_lm", *, attn: str = "sdpa", seed: int = 0, **fields: Any) -> TaskModel:
    """A small model in fp32 whose biases and norms are random too, in evaluation mode."""
    model = build_model(LlamaConfig(**{**SMALL, **fields}), head, attn_implementation=attn, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def theirs(model: TaskModel, *, attn: str = "sdpa") -> nn.Module:
    """The same model in transformers, from our configuration's file form and our weights."""
    config = transformers.LlamaConfig(**model.config.to_dict(), attn_implementation=attn)
    name = {"causal_lm": "LlamaForCausalLM", "sequence_classification": "LlamaForSequenceClassification"}
    oracle = getattr(transformers, name[model.head.name])(config).eval()
    result = oracle.load_state_dict(dict(named_checkpoint_tensors(model)), strict=False)
    tied = ["lm_head.weight"] if model.config.tie_word_embeddings and model.head.name == "causal_lm" else []
    assert result.missing_keys == tied
    assert not result.unexpected_keys
    return oracle


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal to ``tolerance`` of the largest value."""
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def assert_gradients_agree(model: TaskModel, oracle: nn.Module, tolerance: float = 1e-5) -> None:
    """||g - g'|| <= 1e-5 max(||g||, 1e-5 ||all gradients||) for each tensor.

    What the oracle does not train is no parameter here. A bias of keys moves all scores of a query alike,
    which their softmax does not see: its gradient is rounding alone, and only has to be as small as that. So
    it is with the bias of a head that scores tokens or choices against each other.
    """
    scores_compete = getattr(model.head, "name", None) in ("question_answering", "multiple_choice")
    expected = {name: p.grad for name, p in oracle.named_parameters(remove_duplicate=False)}
    gradients = [parameter.grad for parameter in oracle.parameters() if parameter.requires_grad]
    total = torch.stack([grad.norm() for grad in gradients]).norm()
    compared = 0
    for name, parameter in model.named_parameters():
        key = model.keymap.to_checkpoint(name)
        compared += 1
        grad = expected[key]
        rounding = key.endswith(".key.bias") or (name == "head.classifier.bias" and scores_compete)
        allowed = tolerance * max(grad.norm(), total if rounding else tolerance * total)
        assert (parameter.grad - grad).norm() <= allowed, name
    assert compared == len(gradients)


def padded_batch(side: str, vocab: int = 96, pad: int = 0) -> dict[str, Tensor]:
    """Three rows of 13, 20 and 5 tokens, padded on one side; labels are -100 at padding and first tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.full((3, 20), pad)
    mask = torch.zeros(3, 20, dtype=torch.long)
    for row, length in enumerate((13, 20, 5)):
        place = slice(0, length) if side == "right" else slice(20 - length, 20)
        ids[row, place] = torch.randint(1, vocab, (length,), generator=generator)
        mask[row, place] = 1
    labels = ids.masked_fill(mask.cumsum(-1) * mask <= 1, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def packed_batch(lengths: tuple[int, ...], vocab: int = 96) -> dict[str, Tensor]:
    """Documents of these lengths in one row, as the flattening collator gives them."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, vocab, (1, sum(lengths)), generator=generator)
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return {"input_ids": ids, "position_ids": positions, "cu_seqlens": borders}


def raises(call: Callable[[], Any]) -> str:
    """The text of the error that ``call`` ends in."""
    try:
        call()
    except Exception as error:
        return str(error)
    raise AssertionError("nothing was raised")
