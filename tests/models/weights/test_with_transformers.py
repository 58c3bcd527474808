"""Llama folders of transformers load here and the reverse: no key missing or too many, every bit equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import models
from models.weights import (
    LoadReport,
    Mismatch,
    WeightFiles,
    checkpoint_names,
    load_weights,
    named_checkpoint_tensors,
    save_weights,
)

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
    assert report == LoadReport(
        missing=("score.weight",), unexpected=(), mismatched=(), unloaded=("head.weight",)
    )
    assert torch.equal(ours.backbone.norm.weight, theirs.norm.weight)


def test_frequencies_in_files_of_old_are_passed_over(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    theirs = their_model("causal_lm", {}, torch.float32)
    tensors = dict(theirs.named_parameters()) | {
        f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.zeros(4) for layer in (0, 1)
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert load_weights(our_model("causal_lm", {}, torch.float32), tmp_path) == COMPLETE


# --- experts, which files hold one by one --------------------

AFMOE = {
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 12,
    "moe_intermediate_size": 6,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "head_dim": 4,
    "num_experts": 12,
    "num_experts_per_tok": 2,
    "num_shared_experts": 1,
    "sliding_window": 8,
}
LAST = "model.layers.2.mlp.experts.11.up_proj.weight"


def their_afmoe(folder: Path, **saving) -> transformers.AfmoeForCausalLM:
    torch.manual_seed(0)
    theirs = transformers.AfmoeForCausalLM(transformers.AfmoeConfig(**AFMOE))
    for name, tensor in theirs.state_dict().items():
        if "expert_bias" in name:
            tensor.normal_()
    theirs.save_pretrained(folder, **saving)
    return theirs


def our_afmoe(device: str = "meta") -> models.TaskModel:
    return models.build_model(models.AutoConfig.for_model("afmoe", **AFMOE), "causal_lm", device=device)


def test_experts_are_merged_and_written_apart_as_theirs(tmp_path: Path) -> None:
    state = their_afmoe(tmp_path / "theirs", max_shard_size="8KB").state_dict()
    ours = our_afmoe()
    assert load_weights(ours, tmp_path / "theirs") == COMPLETE
    tensors = dict(named_checkpoint_tensors(ours))
    assert set(tensors) == set(state)
    assert all(torch.equal(tensors[key], state[key]) for key in state)

    def saved(name: str, **options) -> Path:
        (tmp_path / name).mkdir()
        save_weights(ours, lambda relpath: (tmp_path / name / relpath).open("xb"), **options)
        return tmp_path / name

    original, found = WeightFiles(tmp_path / "theirs"), WeightFiles(saved("ours", max_shard_size="8KB"))
    assert LAST in found
    assert set(found.keys()) == set(original.keys())
    assert all(torch.equal(found.get(key), original.get(key)) for key in original.keys())  # noqa: SIM118
    packed = saved("packed", save_original_format=False)
    assert set(WeightFiles(packed).keys()) == set(state)
    again = our_afmoe()
    assert load_weights(again, packed) == COMPLETE
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))
    transformers.AfmoeConfig(**AFMOE).save_pretrained(tmp_path / "ours")
    theirs, report = transformers.AfmoeForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report.values()), report
    assert all(torch.equal(tensor, state[key]) for key, tensor in theirs.state_dict().items())


def test_what_of_experts_does_not_fit_is_reported_by_their_keys(tmp_path: Path) -> None:
    their_afmoe(tmp_path)
    tensors = {key: WeightFiles(tmp_path).get(key) for key in WeightFiles(tmp_path).keys()}  # noqa: SIM118
    shared = "model.layers.1.mlp.experts."
    del tensors[LAST], tensors[f"{shared}11.down_proj.weight"]
    tensors[f"{shared}3.gate_proj.weight"] = torch.zeros(7, 8)
    tensors[f"{shared}12.gate_proj.weight"] = torch.zeros(6, 8)
    for number in range(AFMOE["num_experts"]):
        del tensors[f"model.layers.2.mlp.experts.{number}.down_proj.weight"]
    ours = our_afmoe(device="cpu")
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    report = load_weights(ours, tensors)
    assert report == LoadReport(
        missing=(f"{shared}11.down_proj.weight", LAST, "model.layers.2.mlp.experts.down_proj"),
        unexpected=(f"{shared}12.gate_proj.weight",),
        mismatched=(Mismatch(key=f"{shared}3.gate_proj.weight", expected=(6, 8), found=(7, 8)),),
        unloaded=tuple(
            f"backbone.layers.{layer}.mlp.experts.{name}"
            for layer in (1, 2)
            for name in ("gate_up_proj", "down_proj")
        ),
    )
    assert all(torch.equal(ours.state_dict()[name], before[name]) for name in report.unloaded)
