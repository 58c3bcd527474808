"""A backbone under a head: recomputing layers, caching while training, and counting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from conf.errors import ConfigError
from models import DynamicCache, LlamaConfig, ModelConfig, TaskModel, build_model
from models.afmoe import AfmoeConfig
from models.albert import AlbertConfig
from models.heads.causal_lm import CausalLMHead
from models.layers import checkpointing
from tests.models.oracle import close, ours, packed_batch, raises, theirs

IDS = torch.arange(24).view(2, 12)


def gradients(model: TaskModel, **inputs: Any) -> list[Tensor | None]:
    """Of the chunked loss, by the same random numbers each time."""
    torch.manual_seed(0)
    model.zero_grad()
    model({"input_ids": IDS, **inputs}, compute=lambda head, hidden: head.nll(hidden, IDS)).backward()
    return [parameter.grad for parameter in model.parameters()]


def equal(a: list[Tensor | None], b: list[Tensor | None]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recomputed_layers_give_the_same_gradients(use_reentrant: bool, dropout: float) -> None:
    model = ours(attn="eager", attention_dropout=dropout).train()
    expected = gradients(model)
    assert equal(gradients(model), expected), "the same random numbers"
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert equal(gradients(model), expected)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant, "preserve_rng_state": False})
    assert equal(gradients(model), expected) == (dropout == 0), "dropout drawn again is another one"
    model.gradient_checkpointing_disable()
    assert equal(gradients(model), expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_layers_on_frozen_embeddings_are_recomputed(use_reentrant: bool) -> None:
    model = ours().train()
    model.get_input_embeddings().requires_grad_(False)
    expected = gradients(model)[1:]
    assert all(gradient is not None for gradient in expected)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert equal(gradients(model)[1:], expected)


DEFAULTS = {
    "use_reentrant": False,
    "preserve_rng_state": True,
    "determinism_check": "default",
    "debug": False,
    "early_stop": True,
}


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        {"use_reentrant": True},
        {"preserve_rng_state": False},
        {"determinism_check": "none"},
        {"debug": True},
        {"early_stop": False},
        {"use_reentrant": True, "preserve_rng_state": False},
    ],
    ids=str,
)
def test_each_option_reaches_torch(given: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    real = checkpointing.checkpoint

    def watched(*args: Any, **options: Any) -> Any:
        calls.append(options)
        return real(*args, **options)

    monkeypatch.setattr(checkpointing, "checkpoint", watched)
    model = ours().train()
    model.gradient_checkpointing_enable(given)
    gradients(model)
    assert calls == [{**DEFAULTS, **(given or {})}] * model.config.num_hidden_layers
    model.eval()
    gradients(model)
    assert len(calls) == model.config.num_hidden_layers, "in training only"


def test_wrong_checkpointing_options_are_all_named() -> None:
    path = "training.gradient_checkpointing_kwargs"
    with pytest.raises(ConfigError) as caught:
        ours().gradient_checkpointing_enable({"use_reentrent": True, "determinism_check": "all", "debug": 3})
    assert caught.value.problems == (
        f"{path}.use_reentrent: no such key; did you mean '{path}.use_reentrant'?",
        f"{path}.determinism_check: 'all' is none of its values; known are default, none.",
        f"{path}.debug: true or false is wanted, 3 was given.",
    )


@pytest.mark.parametrize(
    ("name", "value"), [("debug", True), ("determinism_check", "none"), ("early_stop", False)]
)
def test_what_the_reentrant_kind_ignores_is_refused(name: str, value: Any) -> None:
    text = raises(lambda: ours().gradient_checkpointing_enable({"use_reentrant": True, name: value}))
    assert text == (
        f"training.gradient_checkpointing_kwargs.{name}: does nothing with use_reentrant=true; "
        "leave out one of the two."
    )


def test_a_cache_is_kept_while_training_only_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[DynamicCache] = []
    update = DynamicCache.update

    def watched(cache: DynamicCache, *args: Any) -> Any:
        made.append(cache)
        return update(cache, *args)

    monkeypatch.setattr(DynamicCache, "update", watched)
    model = ours(use_cache=False, num_key_value_heads=2).train()
    expected = gradients(model)
    assert not made
    assert equal(gradients(model, use_cache=True), expected)
    assert len(made) == model.config.num_hidden_layers
    assert made[0].get_seq_length() == IDS.shape[1]
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["use_cache"] is False
    model.gradient_checkpointing_enable()
    assert "use_cache=False" in raises(lambda: gradients(model, use_cache=True))


def test_a_packed_batch_may_be_cached_while_training() -> None:
    model, batch = ours().train(), packed_batch((5, 7))

    def loss(**more: Any) -> Tensor:
        return model({**batch, **more}, compute=lambda head, hidden: head.nll(hidden, batch["input_ids"]))

    assert torch.equal(loss(use_cache=True), loss())


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_as_in_transformers(tied: bool) -> None:
    model = ours(tie_word_embeddings=tied, attention_bias=True)
    oracle = theirs(model)
    for of in (model, oracle):
        of.get_input_embeddings().requires_grad_(False)
    for options in (
        {},
        {"only_trainable": True},
        {"exclude_embeddings": True},
        {"only_trainable": True, "exclude_embeddings": True},
    ):
        assert model.num_parameters(**options) == oracle.num_parameters(**options), options
    table = model.config.vocab_size * model.config.hidden_size
    assert model.num_parameters() - model.num_parameters(exclude_embeddings=True) == table


def test_operations_are_six_a_token_and_parameter() -> None:
    model = ours()
    assert model.main_input_name == theirs(model).main_input_name == "input_ids"
    inner = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
    assert model.floating_point_ops({"input_ids": IDS, "labels": IDS}) == 6 * IDS.numel() * inner
    assert model.floating_point_ops({"inputs_embeds": torch.zeros(1, 2, 32)}) == 0


WIDE = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("task", "config", "options"),
    [
        ("causal_lm", LlamaConfig(**WIDE, num_hidden_layers=2), {}),
        ("masked_lm", AlbertConfig(**WIDE, embedding_size=16, num_hidden_layers=4), {}),
        (
            "masked_lm",
            AlbertConfig(
                **WIDE, embedding_size=16, num_hidden_layers=5, num_hidden_groups=2, inner_group_num=2
            ),
            {},
        ),
        (
            "causal_lm",
            AfmoeConfig(**WIDE, head_dim=16, moe_intermediate_size=64, num_hidden_layers=3, num_experts=8),
            {"experts_implementation": "eager"},
        ),
    ],
    ids=["llama", "albert", "albert-groups", "afmoe"],
)
def test_counting_matches_measured_operations(
    task: str, config: ModelConfig, options: dict[str, str]
) -> None:
    # Torch counts the products that are really done: with a wide model on few tokens attention is little.
    model = build_model(config, task, seed=0, **options).train()
    with FlopCounterMode(display=False) as counter:
        model(IDS, labels=IDS).loss.backward()
    assert model.floating_point_ops({"input_ids": IDS}) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_the_head_passes_smoothing_on() -> None:
    head, hidden = CausalLMHead(4, 6), torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[1, -100, 5]])
    expected = nn.functional.cross_entropy(
        head(hidden)[0], labels[0], ignore_index=-100, reduction="sum", label_smoothing=0.2
    )
    assert close(head.nll(hidden, labels, 0.2), expected, 1e-6)
