"""Liger's kernels against our layers, run by ``test_kernels`` in a process of its own under the interpreter.

Triton decides when it is imported whether it interprets, so this cannot happen in the tests' own process.
Prints one JSON object: what was found, by name of the case.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice
from triton.runtime import interpreter

from models import LlamaConfig, ModelConfig, TaskModel, build_model
from models.apertus import ApertusConfig
from models.heads.causal_lm import shift_labels
from models.kernels import check_liger, use_liger
from tests.models.liger_names import ALL, FUNCTIONS, KERNELS

BLOCKED = ("transformers", "peft", "trl")  # importing these is an error: the kernels must do without
CONFIG = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
}


def mend_the_interpreter() -> None:
    """Two things that Liger's kernels use and the interpreter lacks: Python floats, and libdevice."""
    convert = interpreter._implicit_cvt

    def converted(value: Any) -> Any:
        if isinstance(value, float):
            handle = interpreter.TensorHandle(np.array([value], np.float32), tl.float32)
            return tl.tensor(handle, tl.float32)
        return convert(value)

    def elementwise(function: Callable[[Any], Any]) -> Callable[..., Any]:
        def call(x: Any, *_: Any, **__: Any) -> Any:
            data = function(x.handle.data.astype(np.float32)).astype(x.handle.data.dtype)
            return tl.tensor(interpreter.TensorHandle(data, x.handle.dtype), x.type)

        return call

    interpreter._implicit_cvt = converted
    libdevice.rsqrt = elementwise(lambda x: 1 / np.sqrt(x))


class Counted:
    """One of Liger's functions, that counts how often it is used."""

    def __init__(self, function: Any):
        self.function, self.calls = function, 0

    def apply(self, *inputs: Any) -> Any:
        self.calls += 1
        return self.function.apply(*inputs)


def counted() -> dict[str, Counted]:
    """All of Liger's functions, counting, in the place of the real ones."""
    check_liger()
    from models import liger

    made = {kernel: Counted(getattr(liger, name)) for kernel, name in FUNCTIONS.items()}
    for kernel, name in FUNCTIONS.items():
        setattr(liger, name, made[kernel])
    return made


def model(seed: int = 0, family: type[ModelConfig] = LlamaConfig, **fields: Any) -> TaskModel:
    """A small model whose norms are random too."""
    made = build_model(family(**{**CONFIG, **fields}), "causal_lm", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def packed() -> dict[str, Tensor]:
    ids = torch.randint(0, 37, (1, 9), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, [0, 3, 5]] = -100
    return {"input_ids": ids, "labels": labels, "cu_seqlens": torch.tensor([0, 5, 9], dtype=torch.int32)}


def padded() -> dict[str, Tensor]:
    ids = torch.randint(0, 37, (2, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    return {"input_ids": ids, "labels": ids.masked_fill(mask == 0, -100), "attention_mask": mask}


def step(of: TaskModel, batch: dict[str, Tensor], smoothing: float = 0.0) -> tuple[Tensor, Tensor, list]:
    """Loss, hidden states and gradients of one training step."""
    targets = shift_labels(batch["labels"])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    of.train().zero_grad()
    hidden, loss = of(inputs, compute=lambda head, h: (h, head.nll(h, targets, smoothing)))
    (loss * 0.5).backward()
    return loss.detach(), hidden.detach(), [parameter.grad for parameter in of.parameters()]


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value; NaN is as far as can be."""
    found = ((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item()
    return found if found == found else float("inf")


def compared(config: dict[str, bool], batch: dict[str, Tensor], smoothing: float, **fields: Any) -> dict:
    """Both models on one batch: how far apart they are, what was replaced and called, and what stayed."""
    before = {kernel: function.calls for kernel, function in COUNTED.items()}
    plain = model(**fields)
    liger = copy.deepcopy(plain)
    said = use_liger(liger, config)
    names = [name for name, _ in liger.named_parameters()]
    liger = copy.deepcopy(liger)  # a copy keeps the kernels, and its own weights
    found, expected = step(liger, batch, smoothing), step(plain, batch, smoothing)
    return {
        "said": said,
        "calls": {kernel: COUNTED[kernel].calls - before[kernel] for kernel in COUNTED},
        "names_kept": names == [name for name, _ in plain.named_parameters()],
        "loss": distance(found[0], expected[0]),
        "hidden": distance(found[1], expected[1]),
        "gradients": max(map(distance, found[2], expected[2])),
    }


def nothing_supervised(kernel: str) -> dict[str, Any]:
    """An unsupervised token that is infinite, and then nothing supervised at all."""
    head = model().head
    hidden = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([[3, -100, 5, 6]])
    expected = head.nll(hidden, labels).item()
    use_liger_on(head, kernel)
    loss = head.nll(hidden.index_fill(1, torch.tensor([1]), torch.inf), labels)
    loss.backward()
    none = head.nll(hidden.requires_grad_(), torch.full((1, 4), -100))
    finite = bool(head.weight.grad.isfinite().all())
    none.backward()
    return {"loss": loss.item(), "expected": expected, "finite": finite, "none": none.item()}


def frozen_backbone(kernel: str) -> dict[str, Any]:
    """Only the head learns: hidden states ask for no gradient."""
    head, hidden = model().head, torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([[3, 4, 5, 6]])
    head.nll(hidden, labels).backward()
    expected, head.weight.grad = head.weight.grad, None
    use_liger_on(head, kernel)
    head.nll(hidden, labels).backward()
    return {"distance": distance(head.weight.grad, expected)}


def use_liger_on(head: torch.nn.Module, kernel: str) -> None:
    from models.liger import REPLACE

    assert REPLACE[kernel](head)


def recomputed() -> dict[str, Any]:
    """With gradient checkpointing the kernels run twice and overwrite what they are given."""
    plain, liger = model(), model()
    use_liger(liger)
    plain.gradient_checkpointing_enable()
    liger.gradient_checkpointing_enable()
    found, expected = step(liger, padded()), step(plain, padded())
    return {"gradients": max(map(distance, found[2], expected[2]))}


def text_of(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return str(error)
    return ""


def main() -> None:
    cases: dict[str, Any] = {
        f"{name}-{batch.__name__}": compared(config, batch(), smoothing=0.0)
        for name, config in {**KERNELS, "all": ALL}.items()
        for batch in ((packed, padded) if name in ("rope", "all") else (padded,))
    }
    for name in ("cross_entropy", "fused_linear_cross_entropy"):
        cases[f"{name}-smoothing"] = compared(KERNELS[name], padded(), smoothing=0.1)
        cases[f"{name}-nothing"] = nothing_supervised(name)
        cases[f"{name}-frozen"] = frozen_backbone(name)
    cases["all-tied"] = compared(ALL, padded(), 0.0, tie_word_embeddings=True, head_dim=6, mlp_bias=True)
    cases["apertus"] = compared({}, padded(), 0.0, family=ApertusConfig)
    cases["gelu"] = compared({}, padded(), 0.0, hidden_act="gelu")
    cases["recomputed"] = recomputed()
    cases["headless"] = use_liger(build_model(LlamaConfig(**CONFIG), None))
    cases["swiglu-on-gelu"] = text_of(lambda: use_liger(model(hidden_act="gelu"), {"swiglu": True}))
    cases["nothing"] = text_of(lambda: use_liger(model(), dict.fromkeys(KERNELS, False)))
    cases["blocked"] = [name for name in BLOCKED if sys.modules[name] is None]
    print(json.dumps(cases))


sys.modules.update(dict.fromkeys(BLOCKED))  # type: ignore[arg-type]
mend_the_interpreter()
COUNTED = counted()
if __name__ == "__main__":
    main()
