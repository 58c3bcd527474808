"""Recipes with other families than Llama: what suits a training method, and what is said of what does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from models import build_model
from models.bert import BertConfig

# No chat recipe: its template needs tokens of its own.
TINY = (
    *("+recipe=pretrain_llama", "model.preset=tiny", "processor.tokenizer.vocab_size=512"),
    *("data.max_length=64", "training.max_steps=2", "evaluation=none", "callbacks.samples=null"),
)
EXPERTS = "model.experts_implementation"


@pytest.mark.parametrize(
    "words", [("apertus",), ("afmoe",), ("bert", "model.config.is_decoder=true")], ids=str
)
@pytest.mark.parametrize("packing", ["true", "false"])
def test_decoders_train(words: Sequence[str], packing: str, train: Any) -> None:
    family, *more = words
    done = train(*TINY, f"model={family}", *more, f"data.packing={packing}", "logging.logging_steps=1")
    assert done.status == 0, done.error
    losses = [line["loss"] for line in done.metrics if "loss" in line]
    assert len(losses) == 2
    assert all(5 < loss < 7 for loss in losses), "about the logarithm of 512"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("model=bert",),
            "model.config.is_decoder: causal_lm predicts the next token, which a token of this bert sees; "
            "set it to true, in its config.json where model.path is given.",
        ),
        (
            ("model=bert", "model.config.is_decoder=true", "model.config.add_cross_attention=true"),
            "model.config.add_cross_attention: causal_lm has no encoder's states to look at; set it to "
            "false.",
        ),
        (
            ("model=albert",),
            "model: albert has no head for causal_lm; families that have one are afmoe, apertus, bert, "
            "llama.",
        ),
        (
            ("model=afmoe", "model.config.moe_intermediate_size=36", f"{EXPERTS}=grouped_mm"),
            f"{EXPERTS}: grouped_mm needs widths that 8 divides, and an expert's are 64 and 36; take eager",
        ),
        ((f"{EXPERTS}=eager",), f"{EXPERTS}: this llama has no experts; leave it out."),
        (
            ("objective.expert_bias_update_rate=0.1",),
            "objective.expert_bias_update_rate: this llama has no experts; leave it out.",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_does_not_suit_is_said_before_anything_is_built(
    words: Sequence[str], said: str, train: Any, tmp_path: Path
) -> None:
    done = train(*TINY, *words, f"data.cache_dir={tmp_path}/tokens")
    assert str(done.error) == said
    assert "preparing" not in done.out
    assert not done.folder.exists()
    assert not (tmp_path / "tokens").exists(), "no tokenizer is trained for a model that cannot be"


def test_a_folder_that_cannot_be_trained_is_refused_before_data_is_made(train: Any, tmp_path: Path) -> None:
    bert = build_model(BertConfig.preset("tiny", vocab_size=512), "pretraining")
    bert.save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n")
    recipe = ("+recipe=pretrain_llama", "processor.chat_template=null", f"data.cache_dir={tmp_path}/tokens")
    for folder, task, status, said in (
        ("bert", "train", 2, "a token of this bert sees; set it to true, in its config.json"),
        ("bert", "evaluate", 2, "a token of this bert sees"),
        ("nowhere", "train", 4, "nowhere/config.json: not found"),
    ):
        done = train(*recipe, f"task={task}", f"model.path={tmp_path / folder}")
        assert done.status == status
        assert said in str(done.error)
        assert not (tmp_path / "tokens").exists()


def test_no_document_is_beyond_the_positions_of_the_model(train: Any) -> None:
    """Where a position is a row of a table; rotary ones have no end."""
    short = (*TINY, "model.config.max_position_embeddings=40", "data.max_length=48")
    bert = ("model=bert", "model.config.is_decoder=true")
    for more in ((), ("data.packing=false",), ("data.streaming=true",)):
        said = "data.max_length: 48 lets through documents of 48 tokens, and this bert has 40 positions; "
        assert str(train(*short, *bert, *more).error) == f"{said}lower it to that."
    assert train(*short, *bert, "data.max_length=40", "check=true").status == 0
    assert train(*short, "check=true").status == 0


def test_how_experts_are_computed_is_chosen(train: Any) -> None:
    for name in ("eager", "batched_mm"):
        done = train(*TINY, "model=afmoe", f"{EXPERTS}={name}", f"output_dir={name}")
        assert done.status == 0, done.error
        layers = done.run.model.backbone.layers
        assert {layer.mlp.experts.implementation for layer in layers if layer.sparse} == {name}
