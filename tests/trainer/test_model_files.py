"""Starting from a folder of pretrained weights: what may differ from the model trained, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models import LlamaConfig, build_model
from models.weights import named_checkpoint_tensors
from tests.models.oracle import SMALL, close, ours, raises
from trainer.model_files import model_files, start_from


def test_a_head_for_another_task_is_drawn_and_said(tmp_path: Path) -> None:
    ours(tie_word_embeddings=False, pad_token_id=0).save_pretrained(tmp_path)
    config = LlamaConfig(**SMALL, num_labels=3, pad_token_id=0)
    heads = []
    for seed in (1, 1, 2):
        model = build_model(config, "sequence_classification", device="meta")
        torch.manual_seed(seed)
        assert start_from(model, tmp_path) == [
            f"{tmp_path}: lacks score.weight; drawn afresh, to be trained before use",
            f"{tmp_path}: has lm_head.weight, which this model has no use for",
        ]
        heads.append(model.head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    model = build_model(config, "sequence_classification", device="meta")
    files = model_files(model, max_shard_size=10**9)
    assert raises(lambda: files.load(model, tmp_path)) == (
        f"{tmp_path}: lacks or has in another shape score.weight; it is not of this model."
    ), "a checkpoint to go on from is complete"
    deeper = build_model(LlamaConfig(**{**SMALL, "num_hidden_layers": 3}), "causal_lm", device="meta")
    assert "missing or of another shape: model.layers.2." in raises(lambda: start_from(deeper, tmp_path))


@pytest.mark.parametrize("tied", [True, False])
def test_a_vocabulary_grows_to_the_tokenizers(tied: bool, tmp_path: Path) -> None:
    small = ours(tie_word_embeddings=tied)
    small.save_pretrained(tmp_path)
    fields = {**SMALL, "vocab_size": 100, "pad_token_id": 98, "tie_word_embeddings": tied}
    model = build_model(LlamaConfig(**fields), "causal_lm", device="meta")
    assert start_from(model, tmp_path) == [
        f"{tmp_path}: its vocabulary of 96 words has grown to 100; the new ones are drawn."
    ]
    assert model.config == LlamaConfig(**fields)
    found, table = dict(named_checkpoint_tensors(model)), model.get_input_embeddings()
    for key, tensor in named_checkpoint_tensors(small):
        assert torch.equal(found[key][: len(tensor)], tensor), key
    assert close(table.weight[96], small.get_input_embeddings().weight.mean(0), 1e-3)
    assert not table.weight[98].any()
    assert (table.padding_idx, model.head.weight is table.weight) == (98, tied)
    saved = tmp_path / "again"
    model.save_pretrained(saved)
    model_files(model, max_shard_size=10**9).load(
        build_model(model.config, "causal_lm", device="meta"), saved
    )
