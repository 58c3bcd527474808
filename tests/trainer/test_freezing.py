"""Which parameters are trained: patterns, what they leave as it was, the plan, and resuming."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from conf.errors import ConfigError
from models import AutoModelForCausalLM, build_model
from models.llama.config import LlamaConfig
from models.weights import WeightFiles, checkpoint_names
from trainer.freezing import freeze

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def trained(model: nn.Module) -> set[str]:
    names = checkpoint_names(model)
    return {names[name] for name, parameter in model.named_parameters() if parameter.requires_grad}


def make(**config: Any) -> nn.Module:
    return build_model(LlamaConfig(**SMALL, **config), "causal_lm", device="meta")


ALL = trained(make())
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"
FIRST = {name for name in ALL if ".layers.0." in name}


@pytest.mark.parametrize(
    ("frozen", "unfrozen", "left"),
    [
        ((), None, ALL),
        ((r"model\.embed_tokens\.weight",), None, ALL - {TABLE}),
        ((r"model\.embed_tokens\.weight", r".*\.layers\.0\..*"), None, ALL - FIRST - {TABLE}),
        ((), (r"lm_head\.weight",), {HEAD}),
        ((), (r"lm_head\.weight", r".*\.layers\.0\..*"), FIRST | {HEAD}),
        (
            (r".*\.mlp\..*",),
            (r".*\.layers\.0\..*",),
            {name for name in FIRST if ".mlp." not in name},
        ),
    ],
)
def test_patterns_say_what_is_trained(frozen: Any, unfrozen: Any, left: set[str]) -> None:
    model = make()
    freeze(model, checkpoint_names(model), frozen=frozen, unfrozen=unfrozen)
    assert trained(model) == left
    assert left


def test_what_was_frozen_before_stays_so_unless_named() -> None:
    model = make()
    model.backbone.requires_grad_(False)
    freeze(model, checkpoint_names(model), frozen=(), unfrozen=None)
    assert trained(model) == {HEAD}
    freeze(model, checkpoint_names(model), frozen=(), unfrozen=(r".*embed.*", r"lm_head.*"))
    assert trained(model) == {HEAD, TABLE}
    freeze(model, checkpoint_names(model), frozen=(r"lm_head.*",), unfrozen=None)
    assert trained(model) == {TABLE}


def test_a_shared_weight_has_its_first_name() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL, tie_word_embeddings=True), seed=0)
    freeze(model, checkpoint_names(model), frozen=(r".*embed_tokens.*",), unfrozen=None)
    assert not model.head.weight.requires_grad


@pytest.mark.parametrize(
    ("frozen", "unfrozen", "sentence"),
    [
        (
            ("lm_head",),
            None,
            "training.frozen_parameters[0]: 'lm_head' matches no whole name of a parameter; near are "
            "'lm_head.weight'.",
        ),
        (
            (r"lm_head\.weight", r"model\.embd_tokens\.weight"),
            None,
            r"training.frozen_parameters[1]: 'model\\.embd_tokens\\.weight' matches no whole name of a "
            "parameter; near are 'model.embed_tokens.weight'.",
        ),
        (
            (),
            ("model.layers.7.input_layernorm.weight",),
            "training.unfrozen_parameters[0]: 'model.layers.7.input_layernorm.weight' matches no whole name "
            "of a parameter; near are 'model.layers.1.input_layernorm.weight', "
            "'model.layers.0.input_layernorm.weight', 'model.layers.1.post_attention_layernorm.weight'.",
        ),
        (
            ("(",),
            None,
            "training.frozen_parameters[0]: '(' is no regular expression; missing ), unterminated subpattern "
            "at position 0.",
        ),
        ((".*",), None, "training.frozen_parameters: it leaves no parameter to train; freeze fewer."),
        ((), (), "training.unfrozen_parameters: it leaves no parameter to train; freeze fewer."),
    ],
)
def test_what_cannot_be_meant_is_refused(frozen: Any, unfrozen: Any, sentence: str) -> None:
    model = make()
    with pytest.raises(ConfigError) as raised:
        freeze(model, checkpoint_names(model), frozen=frozen, unfrozen=unfrozen)
    assert raised.value.problems == (sentence,)


# -- in a run ----------------------------------------------------------------------------------------

FROZEN = r"training.frozen_parameters=[.*\.layers\.0\..*,.*norm.*]"


def weights(folder: Any) -> dict[str, torch.Tensor]:
    files = WeightFiles(folder)
    return {name: files.get(name) for name in files.keys()}  # noqa: SIM118


def test_a_frozen_weight_stays_as_it_was(train: Callable[..., Any], tiny: Sequence[str]) -> None:
    began = train(*tiny, "optimizer.learning_rate=0", "output_dir=began")
    done = train(*tiny, FROZEN, "optimizer.weight_decay=0.1", "output_dir=frozen")
    assert done.status == 0, done.error
    before, after = weights(began.folder), weights(done.folder)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if ".layers.0." in name or "norm" in name}
    plan = yaml.safe_load((done.folder / "plan.yaml").read_text())
    assert plan["trainable_parameters"] == sum(before[name].numel() for name in before.keys() - same)
    assert plan["parameters"] == sum(tensor.numel() for tensor in before.values())
    kept = WeightFiles(done.folder / "checkpoint-2" / "training", "optimizer").keys()
    assert {name.rpartition("/")[0] for name in kept} == before.keys() - same, "state of what is trained only"


@pytest.mark.parametrize(
    ("word", "start"),
    [
        (
            "training.frozen_parameters=[lm_haed.weight]",
            "training.frozen_parameters[0]: 'lm_haed.weight' matches",
        ),
        ("training.unfrozen_parameters=[]", "training.unfrozen_parameters: it leaves no parameter to train"),
        (
            "optimizer.groups.table={pattern: embed, learning_rate: 1}",
            "optimizer.groups.table.pattern: 'embed' matches no whole name of a trained parameter",
        ),
    ],
)
def test_a_wrong_pattern_is_said_before_anything_is_built(
    train: Callable[..., Any], tiny: Sequence[str], word: str, start: str
) -> None:
    done = train(*tiny, word, "check=true")
    assert done.status == 2
    assert str(done.error).startswith(start)


def test_frozen_training_resumes(resumes: Callable[..., Any]) -> None:
    resumes("training.max_steps=6", "checkpoint.save_steps=3", "evaluation.eval_steps=3", FROZEN)
