"""Where weights are found: pickles of plain tensors, variants, a choice of kinds, tensors at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import models
from conf.errors import CheckpointError
from models.weights import GivenTensors, LoadReport, WeightFiles, load_weights, open_weights, save_weights

SHAPE = {
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
COMPLETE = LoadReport(missing=(), unexpected=(), mismatched=())


def our_model(device: str = "meta", **options) -> models.TaskModel:
    return models.build_model(models.LlamaConfig(**SHAPE), "causal_lm", device=device, seed=1, **options)


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def write_bin(folder: Path, tensors: dict, shards: int = 1, variant: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if shards == 1:
        torch.save(tensors, folder / f"pytorch_model{variant}.bin")
        return folder
    names = [f"pytorch_model{variant}-{n:05d}-of-{shards:05d}.bin" for n in range(1, shards + 1)]
    where = {key: names[index % shards] for index, key in enumerate(tensors)}
    for name in names:
        torch.save({key: tensors[key] for key in tensors if where[key] == name}, folder / name)
    index = folder / f"pytorch_model.bin.index{variant}.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def assert_loads(source, expected: dict[str, torch.Tensor]) -> None:
    model = our_model()
    assert load_weights(model, source) == COMPLETE
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[model.keymap.to_checkpoint(name)]), name
        assert tensor.data_ptr() % 64 == 0


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_pickles_of_plain_tensors_are_read(tmp_path: Path, shards: int, variant: str) -> None:
    folder = write_bin(tmp_path, weights(), shards, variant)
    source = open_weights(folder, variant=variant[1:] or None)
    model = our_model()
    assert load_weights(model, source) == COMPLETE
    del source
    for path in folder.iterdir():
        path.unlink()
    found = {model.keymap.to_checkpoint(name): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(found[key], tensor) for key, tensor in weights().items())


def test_tensors_at_hand_are_copied_and_left_alone(tmp_path: Path) -> None:
    given = weights()
    model = our_model()
    load_weights(model, given)
    with torch.no_grad():
        model.head.weight.zero_()
    assert_loads(given, weights())
    assert_loads(write_bin(tmp_path, given), weights())
    assert_loads(GivenTensors(given), weights())


@pytest.mark.parametrize("max_shard_size", ["50GB", "1KB"])
def test_a_variant_has_files_of_its_own_as_the_reference_names_them(tmp_path: Path, max_shard_size) -> None:
    model = our_model("cpu")
    size = {"max_shard_size": max_shard_size}
    save_weights(model, lambda name: (tmp_path / name).open("xb"), variant="fp16", **size)
    save_weights(our_model("cpu", dtype="float16"), lambda name: (tmp_path / name).open("xb"), **size)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    load_weights(plain := our_model(), open_weights(tmp_path, variant="fp16"))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    assert {WeightFiles(tmp_path).dtype(key) for key in WeightFiles(tmp_path).keys()} == {torch.float16}  # noqa: SIM118
    theirs.save_pretrained(tmp_path / "theirs", variant="fp16", **size)
    ours = {path.name for path in tmp_path.glob("*") if "fp16" in path.name}
    assert ours == {path.name for path in (tmp_path / "theirs").glob("*fp16*")}
    with pytest.raises(CheckpointError, match=r"holds neither model\.bf16\.safetensors nor .*index\.bf16"):
        open_weights(tmp_path, variant="bf16")


def test_safetensors_are_preferred_and_either_kind_can_be_asked_for(tmp_path: Path) -> None:
    write_bin(tmp_path / "both", {"pickled": torch.zeros(1)})
    save_weights(our_model("cpu"), lambda name: (tmp_path / "both" / name).open("xb"))
    for asked in (None, True):
        assert "lm_head.weight" in open_weights(tmp_path / "both", use_safetensors=asked)
    assert open_weights(tmp_path / "both", use_safetensors=False).keys() == ["pickled"]
    pickled = write_bin(tmp_path / "pickled", {"pickled": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors, only pytorch_model\.bin; leave"):
        open_weights(pickled, use_safetensors=True)
    (tmp_path / "both" / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"neither pytorch_model\.bin nor pytorch_model\.bin\.index"):
        open_weights(tmp_path / "both", use_safetensors=False)


class Runs:
    """A pickle of it runs code where it is read."""

    def __reduce__(self):
        return Path.touch, (Path("it-ran"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": Runs()}, r"holds more than plain tensors, which could run code"),
        (b"no pickle", r"is damaged, or holds more than plain tensors, .* is not read\.$"),
        ([torch.zeros(1)], r"holds something else than tensors by their names\.$"),
        ({"a": 1}, r"holds something else than tensors by their names\.$"),
        ({"state_dict": {"a": torch.zeros(1)}}, r"holds something else than tensors by their names\.$"),
        ({"a": torch.zeros(2).to_sparse()}, r"holds something else than tensors by their names\.$"),
    ],
)
def test_other_pickles_are_refused_in_a_sentence(tmp_path: Path, monkeypatch, content, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_weights(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert not Path("it-ran").exists()


def test_pickles_of_before_torch_1_6_are_read(tmp_path: Path) -> None:
    tensors = weights()
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    source = open_weights(tmp_path)
    assert all(torch.equal(source.get(key), tensors[key]) for key in tensors)


def test_shards_that_lack_something_are_named(tmp_path: Path) -> None:
    folder = write_bin(tmp_path, weights(), shards=2)
    index = folder / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["extra"] = "pytorch_model-00002-of-00002.bin"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.bin lacks the tensor extra, which"):
        open_weights(folder)
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.bin is missing, though the index"):
        open_weights(folder)
    content["weight_map"]["extra"] = "../pytorch_model.bin"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"no bin file beside it"):
        open_weights(folder)
