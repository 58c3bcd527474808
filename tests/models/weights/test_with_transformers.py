"""Llama folders of transformers load here and the reverse: no key missing or too many, every bit equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import models
from models.weights import LoadReport, WeightFiles, checkpoint_names, load_weights, save_weights

SHAPE = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
COMPLETE = LoadReport(missing=(), unexpected=(), mismatched=())
CASES = {
    "plain": ("causal_lm", {}, torch.float32, "50GB"),
    "sharded": ("causal_lm", {}, torch.float32, "10KB"),
    "tied, sharded, bf16": ("causal_lm", {"tie_word_embeddings": True}, torch.bfloat16, "5KB"),
    "biases": ("causal_lm", {"attention_bias": True, "mlp_bias": True}, torch.float32, "50GB"),
    "classification": ("sequence_classification", {"num_labels": 3}, torch.bfloat16, "10KB"),
    "backbone": (None, {}, torch.float32, "50GB"),
}
THEIRS = {
    "causal_lm": "LlamaForCausalLM",
    "sequence_classification": "LlamaForSequenceClassification",
    None: "LlamaModel",
}


def their_model(head: str | None, options: dict, dtype: torch.dtype):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE, **options)
    return getattr(transformers, THEIRS[head])(config).to(dtype)


def our_model(head: str | None, options: dict, dtype: torch.dtype, device: str = "meta") -> models.TaskModel:
    config = models.LlamaConfig(**SHAPE, **options)
    return models.build_model(config, head, dtype=dtype, device=device, seed=1)


def their_name(name: str, head: str | None) -> str:
    """Upstream's own name of a parameter, whose bare backbone has no prefix."""
    return name if head is not None else name.removeprefix("model.")


def assert_equal(ours, theirs, head: str | None) -> None:
    expected = dict(theirs.named_parameters())
    names = checkpoint_names(ours)
    parameters = dict(ours.named_parameters())
    assert {their_name(key, head) for key in names.values()} == set(expected)
    for name, key in names.items():
        assert parameters[name].dtype == expected[their_name(key, head)].dtype
        assert torch.equal(parameters[name], expected[their_name(key, head)]), key


@pytest.mark.parametrize("case", CASES)
def test_a_folder_of_theirs_loads_here(tmp_path: Path, case: str) -> None:
    head, options, dtype, max_shard_size = CASES[case]
    theirs = their_model(head, options, dtype)
    theirs.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (max_shard_size != "50GB")
    ours = our_model(head, options, dtype)
    assert load_weights(ours, tmp_path) == COMPLETE
    assert_equal(ours, theirs, head)


@pytest.mark.parametrize("case", CASES)
def test_a_folder_of_ours_loads_there(tmp_path: Path, case: str) -> None:
    head, options, dtype, max_shard_size = CASES[case]
    ours = our_model(head, options, dtype, device="cpu")
    save_weights(ours, lambda relpath: (tmp_path / relpath).open("xb"), max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (max_shard_size != "50GB")
    transformers.LlamaConfig(**SHAPE, **options).save_pretrained(tmp_path)
    theirs, report = getattr(transformers, THEIRS[head]).from_pretrained(
        tmp_path, dtype=dtype, output_loading_info=True
    )
    assert not any(report.values()), report
    assert_equal(ours, theirs, head)


@pytest.mark.parametrize("tied", [False, True])
def test_shards_and_index_equal_theirs(tmp_path: Path, tied: bool) -> None:
    """The same tensors in the same files, byte for byte, index included."""
    options = {"tie_word_embeddings": tied}
    theirs = their_model("causal_lm", options, torch.float32)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    ours = our_model("causal_lm", options, torch.float32)
    load_weights(ours, tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    save_weights(ours, lambda relpath: (tmp_path / "ours" / relpath).open("xb"), max_shard_size="10KB")
    written = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}
    assert len(written) > 3
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "theirs").glob("model*")}


def test_their_bare_backbone_loads_into_a_model_with_a_head(tmp_path: Path) -> None:
    theirs = their_model(None, {}, torch.float32)
    theirs.save_pretrained(tmp_path)
    assert "norm.weight" in WeightFiles(tmp_path)
    ours = our_model("sequence_classification", {}, torch.float32)
    report = load_weights(ours, tmp_path)
    assert report == LoadReport(missing=("score.weight",), unexpected=(), mismatched=())
    assert torch.equal(ours.backbone.norm.weight, theirs.norm.weight)


def test_frequencies_in_files_of_old_are_passed_over(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    theirs = their_model("causal_lm", {}, torch.float32)
    tensors = dict(theirs.named_parameters()) | {
        f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.zeros(4) for layer in (0, 1)
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert load_weights(our_model("causal_lm", {}, torch.float32), tmp_path) == COMPLETE
