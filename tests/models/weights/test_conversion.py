"""Layouts of files and of memory: every operation there and back bit for bit, and what patterns may say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers.core_model_loading import PermuteForRope as TheirPermute

from conf.errors import CheckpointError
from models.weights import (
    Chunk,
    Concatenate,
    GivenTensors,
    MergeModulelist,
    PermuteForRope,
    SplitModulelist,
    WeightConverter,
    WeightFiles,
    WeightRenaming,
    original_layout,
    save_tensors,
)
from models.weights.converted import as_in_files, as_in_memory

EXPERTS = 12  # so that 10 would sort before 9 as text
HEADS = SimpleNamespace(num_attention_heads=4, num_key_value_heads=2)
MIXTRAL = (
    WeightRenaming(".block_sparse_moe.", ".mlp."),
    WeightConverter(
        ("experts.*.w1.weight", "experts.*.w3.weight"),
        "experts.gate_up_proj",
        (MergeModulelist(dim=0), Concatenate(dim=1)),
    ),
    WeightConverter("experts.*.w2.weight", "experts.down_proj", (MergeModulelist(dim=0),)),
)


def numbered(*shape: int, count: int = 1) -> list[Tensor]:
    """Different values everywhere, so that no two rows can be taken for each other."""
    size = torch.Size(shape).numel()
    return list(torch.arange(count * size, dtype=torch.float32).reshape(count, *shape))


def experts(name: str, *shape: int) -> dict[str, Tensor]:
    tensors = numbered(*shape, count=EXPERTS)
    shuffled = sorted(range(EXPERTS), key=str)  # 0, 1, 10, 11, 2 ...
    return {f"a.experts.{number}.{name}": tensors[number] for number in shuffled}


def permuted(weight: Tensor, heads: int) -> Tensor:
    """Row by row: the even ones of a head, then its odd ones."""
    rows = []
    for head in weight.split(len(weight) // heads):
        rows += [*head[0::2], *head[1::2]]
    return torch.stack(rows)


QKV = numbered(24, 3)[0]
W1, W3 = experts("w1.weight", 3, 2), {k: -v for k, v in experts("w3.weight", 3, 2).items()}
BY_NUMBER = range(EXPERTS)
CASES = {
    "chunk": (
        (WeightConverter("qkv.weight", ("q.weight", "k.weight", "v.weight"), (Chunk(dim=0),)),),
        {"a.qkv.weight": QKV},
        {"a.q.weight": QKV[:8], "a.k.weight": QKV[8:16], "a.v.weight": QKV[16:]},
    ),
    "concatenate": (
        (WeightConverter(("up", "gate"), "both", (Concatenate(dim=1),)),),
        {"gate.weight": QKV, "up.weight": -QKV},
        {"both.weight": torch.cat([-QKV, QKV], dim=1)},
    ),
    "merge": (
        (WeightConverter("experts.*.w1.weight", "experts.w1", (MergeModulelist(dim=1),)),),
        W1,
        {"a.experts.w1": torch.stack([W1[f"a.experts.{i}.w1.weight"] for i in BY_NUMBER], dim=1)},
    ),
    "split": (
        (WeightConverter("experts.w1", "experts.*.w1.weight", (SplitModulelist(dim=1),)),),
        {"a.experts.w1": torch.stack([W1[f"a.experts.{i}.w1.weight"] for i in BY_NUMBER], dim=1)},
        W1,
    ),
    "permute": (
        (WeightConverter("wk", "k_proj", (PermuteForRope("num_key_value_heads"),)),),
        {"a.wk.weight": QKV, "a.wk.bias": QKV[:, 0].clone(), "a.wq.weight": QKV},
        {
            "a.k_proj.weight": permuted(QKV, 2),
            "a.k_proj.bias": permuted(QKV[:, :1], 2)[:, 0],
            "a.wq.weight": QKV,
        },
    ),
    "permute back": (
        (WeightConverter("k_proj.weight", "wk.weight", (PermuteForRope(2, inverse=True),)),),
        {"a.k_proj.weight": permuted(QKV, 2)},
        {"a.wk.weight": QKV},
    ),
    "merge, concatenate": (
        MIXTRAL[1:2],
        {**W1, **W3},
        {
            "a.experts.gate_up_proj": torch.stack(
                [
                    torch.cat([W1[f"a.experts.{i}.w1.weight"], W3[f"a.experts.{i}.w3.weight"]])
                    for i in BY_NUMBER
                ]
            )
        },
    ),
    "concatenate, merge": (
        (
            WeightConverter(
                ("experts.*.w1.weight", "experts.*.w3.weight"), "both", (Concatenate(1), MergeModulelist(2))
            ),
        ),
        {**W1, **W3},
        {
            "a.both": torch.stack(
                [
                    torch.cat([W1[f"a.experts.{i}.w1.weight"], W3[f"a.experts.{i}.w3.weight"]], dim=1)
                    for i in BY_NUMBER
                ],
                dim=2,
            )
        },
    ),
    "chunk, permute, renamed": (
        (
            WeightRenaming("attention", "self_attn"),
            WeightConverter(
                "qkv.weight",
                ("q_proj.weight", "k_proj.weight", "v_proj.weight"),
                (Chunk(), PermuteForRope({"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"})),
            ),
        ),
        {"layers.10.attention.qkv.weight": QKV, "layers.10.attention.o.weight": QKV},
        {
            "layers.10.self_attn.q_proj.weight": permuted(QKV[:8], 4),
            "layers.10.self_attn.k_proj.weight": permuted(QKV[8:16], 2),
            "layers.10.self_attn.v_proj.weight": QKV[16:],
            "layers.10.self_attn.o.weight": QKV,
        },
    ),
}


def all_of(view) -> dict[str, Tensor]:
    found = {}
    for key in view.keys():  # noqa: SIM118
        found[key] = view.get(key).clone()
        assert (view.shape(key), view.dtype(key)) == (found[key].shape, found[key].dtype), key
        out = torch.full_like(found[key], -7.0)
        for read in view.reads(key, out):
            read()
        assert torch.equal(out, found[key]), key
        assert set(view.originals(key, out.shape)) <= set(view._source.keys()), key
    return found


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_each_operation_there_and_back(tmp_path: Path, case: str, dtype: torch.dtype) -> None:
    transforms, in_files, in_memory = CASES[case]
    in_files = {key: tensor.to(dtype) for key, tensor in in_files.items()}
    in_memory = {key: tensor.to(dtype) for key, tensor in in_memory.items()}
    save_tensors(in_files.items(), lambda name: (tmp_path / name).open("wb"))
    assert_equal(all_of(as_in_memory(WeightFiles(tmp_path), transforms, HEADS)), in_memory)
    assert_equal(all_of(as_in_files(GivenTensors(in_memory), transforms, HEADS)), in_files)

    pairs = original_layout(in_memory.items(), transforms, HEADS)
    save_tensors(pairs, lambda name: (tmp_path / f"again-{name}").open("wb"), max_shard_size="50GB")
    again = tmp_path / "again-model.safetensors"
    assert again.read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_what_is_in_memorys_layout_already_is_left_so() -> None:
    packed = CASES["merge, concatenate"][2]
    assert_equal(all_of(as_in_memory(GivenTensors(packed), MIXTRAL)), packed)


def test_incomplete_conversions_are_named_by_the_originals_key() -> None:
    transforms, in_files, in_memory = CASES["merge, concatenate"]
    partial = {key: tensor for key, tensor in in_files.items() if key != "a.experts.10.w3.weight"}
    view = as_in_memory(GivenTensors(partial, "here"), transforms)
    assert view.keys() == ["a.experts.gate_up_proj"]
    with pytest.raises(CheckpointError, match=r"here lacks a\.experts\.10\.w3\.weight, which"):
        view.get("a.experts.gate_up_proj")
    shape = in_memory["a.experts.gate_up_proj"].shape
    assert view.originals("a.experts.gate_up_proj", shape) == dict.fromkeys(in_files, torch.Size([3, 2]))


def test_tensors_that_do_not_go_together_are_an_error() -> None:
    tensors = {"a.experts.0.w2.weight": torch.zeros(2, 3), "a.experts.1.w2.weight": torch.zeros(3, 2)}
    with pytest.raises(CheckpointError, match=r"here: a\.experts\.0\.w2\.weight cannot be converted: "):
        as_in_memory(GivenTensors(tensors, "here"), MIXTRAL).get("a.experts.down_proj")
    odd = as_in_memory(GivenTensors({"qkv.weight": torch.zeros(10, 2)}), CASES["chunk"][0])
    with pytest.raises(CheckpointError, match=r"\(10, 2\) is not divisible by 3 along 0"):
        odd.get("q.weight")


# --- against the reference --------------------


def test_files_of_mixtral_are_read_and_written_as_the_reference_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=16, hidden_size=8, intermediate_size=6, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=EXPERTS,
    )  # fmt: skip
    theirs = transformers.MixtralForCausalLM(config).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size="5KB")
    files = WeightFiles(tmp_path)
    assert "model.layers.1.block_sparse_moe.experts.10.w3.weight" in files
    state = theirs.state_dict()
    assert_equal(all_of(as_in_memory(files, MIXTRAL, config)), state)
    # As the reference does, renamings run backwards over every key: its files have no other `mlp`.
    written = dict(original_layout(state.items(), MIXTRAL, config))
    shards = [load_file(path) for path in tmp_path.glob("*.safetensors")]
    assert_equal(written, {key: tensor for shard in shards for key, tensor in shard.items()})


def test_rows_are_permuted_as_by_the_reference_and_so_that_scores_stay() -> None:
    weight, config = torch.randn(16, 5), SimpleNamespace(num_attention_heads=4)
    operation = PermuteForRope()
    [[ours]] = operation.apply([[weight]], ("q",), config)
    assert torch.equal(ours, TheirPermute().convert({"q": weight}, ["q"], ["q"], config)["q"])
    [[back]] = operation.reverse.apply([[ours]], ("q",), config)
    assert torch.equal(back, weight)

    angles = torch.tensor([0.3, 1.1])
    pairs = torch.view_as_complex((weight @ torch.randn(5)).reshape(4, 2, 2))
    turned = torch.view_as_real(pairs * torch.polar(torch.ones(2), angles)).flatten(1)
    [[halves]] = operation.apply([[torch.view_as_real(pairs).flatten()]], ("q",), config)
    left, right = halves.reshape(4, 4).chunk(2, dim=1)
    cos, sin = angles.cos(), angles.sin()
    rotated = torch.cat([left * cos - right * sin, right * cos + left * sin], dim=1)
    torch.testing.assert_close(rotated @ rotated.T, turned @ turned.T)


# --- what can be said --------------------


def test_patterns_are_whole_parts_anywhere_in_a_key() -> None:
    [renaming] = MIXTRAL[:1]
    assert renaming.rename("x.block_sparse_moe.gate") == "x.mlp.gate"
    assert renaming.rename("block_sparse_moe") == "mlp"
    assert renaming.rename("x.block_sparse_moes.gate") == "x.block_sparse_moes.gate"
    assert renaming.reverse.rename("x.mlp.y.mlp") == "x.block_sparse_moe.y.mlp"
    strangers = {"my_experts.0.w2.weight", "a.experts.0.w2.weights", "a.experts.01.w2.weight", "experts.w2"}
    view = as_in_memory(GivenTensors(dict.fromkeys(strangers, torch.zeros(1))), MIXTRAL)
    assert set(view.keys()) == strangers


@pytest.mark.parametrize(
    ("sources", "targets", "operations", "message"),
    [
        (("a", "b"), ("c", "d"), (Concatenate(),), "many to many"),
        ("a", "b", (), "it is a WeightRenaming"),
        ("a.*", "b", (Concatenate(),), "take MergeModulelist once"),
        ("a", "b", (MergeModulelist(),), "take MergeModulelist never"),
        (("a", "b"), "c", (PermuteForRope(),), "take Concatenate once"),
        ("a", ("b", "c"), (Concatenate(),), "take Concatenate never"),
        ("a", "b.*", (Chunk(),), "take SplitModulelist once"),
        (("a.*", "b"), "c", (Concatenate(),), r"each pattern has one \*, or none"),
        ("a*.b", "c", (MergeModulelist(),), r"a \* stands for a whole part"),
        ((), "c", (Concatenate(),), "at least one pattern"),
        (("a", "a"), "c", (Concatenate(),), "none twice"),
        ("a", "b", (PermuteForRope({"b": 2}),), "heads are a number or a field"),
    ],
)
def test_converters_that_cannot_be_run_both_ways_are_refused(sources, targets, operations, message) -> None:
    with pytest.raises(ValueError, match=message):
        WeightConverter(sources, targets, operations)


def test_a_renaming_has_no_numbers() -> None:
    with pytest.raises(ValueError, match="leaves numbers as they are"):
        WeightRenaming("a.*", "b")


def test_descriptions_need_no_torch() -> None:
    code = (
        "import sys; from models.weights.conversion import *; from models.weights.keymap import KeyMap;"
        "keymap = KeyMap(renames=(), converters=(WeightConverter('a', 'b', (PermuteForRope(2),)),));"
        "keymap.converters[0].reverse;"
        "assert 'torch' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
