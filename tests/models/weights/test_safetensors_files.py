"""Files written here are what the safetensors library reads and writes; damaged ones are refused by name."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from conf.errors import CheckpointError, ConfigError
from models.weights.safetensors import DTYPES, WeightFiles, write_file
from models.weights.save import parse_size, save_tensors


def opener(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    return lambda relpath: (folder / relpath).open("xb")


def written(tensors: dict[str, torch.Tensor]) -> bytes:
    stream = io.BytesIO()
    write_file(stream, tensors)
    return stream.getvalue()


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), key
        assert bits(found[key]) == bits(tensor), key


def of_every_kind() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    random = torch.randint(0, 256, (3, 8), dtype=torch.uint8)
    tensors = {f"type.{code}": random.view(dtype) for code, dtype in DTYPES.items() if code != "BOOL"}
    return tensors | {
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(1.5),
        "scalar.bf16": torch.tensor(2.5, dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
        "empty.fp8": torch.empty(2, 0, dtype=torch.float8_e4m3fn),
        "transposed": torch.randn(5, 7).T,
        "strided": torch.randn(6, 6)[::2, 1::3],
        "expanded": torch.randn(1, 3).expand(4, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "nan": torch.tensor([float("nan"), float("-inf"), -0.0]),
        'unicode é "quoted"': torch.arange(3),
    }


def test_every_kind_of_tensor_is_read_back_by_the_library_bit_for_bit(tmp_path: Path) -> None:
    tensors = of_every_kind()
    (tmp_path / "x.safetensors").write_bytes(written(tensors))
    same(safetensors.torch.load_file(tmp_path / "x.safetensors"), tensors)


def test_every_kind_of_tensor_is_read_back_here(tmp_path: Path) -> None:
    tensors = of_every_kind()
    save_tensors(tensors.items(), opener(tmp_path))
    files = WeightFiles(tmp_path)
    same({key: files.get(key) for key in files.keys()}, tensors)  # noqa: SIM118
    for key, tensor in tensors.items():
        assert (files.shape(key), files.dtype(key)) == (tensor.shape, tensor.dtype)
    assert "scalar" in files
    assert "nothing" not in files


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_bytes_equal_the_librarys(dtype: torch.dtype) -> None:
    tensors = {name: torch.randn(4, size).to(dtype) for size, name in enumerate(["b.w", "a", "c.long.name"])}
    assert written(tensors) == safetensors.torch.save(tensors, metadata={"format": "pt"})


def test_bytes_do_not_depend_on_the_order_given() -> None:
    tensors = of_every_kind()
    assert written(tensors) == written(dict(reversed(tensors.items())))


def test_tensors_are_aligned_to_their_type() -> None:
    content = written(of_every_kind())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    assert header.pop("__metadata__") == {"format": "pt"}
    for entry in header.values():
        assert entry["data_offsets"][0] % DTYPES[entry["dtype"]].itemsize == 0


def test_a_type_that_the_format_lacks_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"w has the type torch\.complex128"):
        written({"w": torch.zeros(2, dtype=torch.complex128)})


# --- shards --------------------


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"w{index}": torch.randn(10, 25) for index in range(5)}  # 1000 bytes each


def test_shards_hold_at_most_their_size_and_the_index_says_where(tmp_path: Path) -> None:
    save_tensors(weights().items(), opener(tmp_path), max_shard_size=2500)
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_parameters": 1250, "total_size": 5000},
        "weight_map": {"w0": names[0], "w1": names[0], "w2": names[1], "w3": names[1], "w4": names[2]},
    }
    assert set(safetensors.torch.load_file(tmp_path / names[1])) == {"w2", "w3"}
    files = WeightFiles(tmp_path)
    same({key: files.get(key) for key in files.keys()}, weights())  # noqa: SIM118


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    tensors = {"small": torch.zeros(1), "large": torch.zeros(1000), "last": torch.zeros(1)}
    save_tensors(tensors.items(), opener(tmp_path), stem="optimizer", max_shard_size=100)
    assert len(list(tmp_path.glob("optimizer-*-of-00003.safetensors"))) == 3
    assert set(WeightFiles(tmp_path, "optimizer").keys()) == set(tensors)


def test_a_stem_may_lead_into_a_folder(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    save_tensors(weights().items(), opener(tmp_path), stem="training/optimizer", max_shard_size=2500)
    files = WeightFiles(tmp_path / "training", "optimizer")
    same({key: files.get(key) for key in files.keys()}, weights())  # noqa: SIM118


def test_what_fits_one_file_has_no_index(tmp_path: Path) -> None:
    save_tensors(weights().items(), opener(tmp_path), max_shard_size=5000)
    save_tensors([], opener(tmp_path), stem="nothing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "nothing.safetensors"]
    assert WeightFiles(tmp_path, "nothing").keys() == []


def test_sizes_are_read_as_upstream_writes_them() -> None:
    assert [parse_size(size) for size in (7, "7", "5GB", "5 gb", "2KiB", "3MB")] == [
        7, 7, 5 * 10**9, 5 * 10**9, 2048, 3 * 10**6,
    ]  # fmt: skip
    for wrong in ("", "GB", "1.5GB", "-1", 0, "5PB", "5 G B"):
        with pytest.raises(ConfigError, match=r"max_shard_size: .* is no size"):
            parse_size(wrong)


# --- what cannot be used --------------------


def sharded(folder: Path) -> Path:
    save_tensors(weights().items(), opener(folder), max_shard_size=2500)
    return folder


def change_index(folder: Path, **weight_map: object) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"].update(weight_map)
    path.write_text(json.dumps(index))


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing is no folder; weights are read from"):
        WeightFiles(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"holds neither model\.safetensors nor .*\.index\.json\.$"):
        WeightFiles(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 50, 1000, -1])
def test_a_truncated_file_is_refused_when_it_is_opened(tmp_path: Path, keep: int) -> None:
    save_tensors(weights().items(), opener(tmp_path))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or truncated"):
        WeightFiles(tmp_path)


def test_a_file_truncated_after_it_was_opened_is_an_error_and_no_crash(tmp_path: Path) -> None:
    save_tensors(weights().items(), opener(tmp_path))
    files = WeightFiles(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as stream:
        stream.truncate(600)
    with pytest.raises(CheckpointError, match="w4 cannot be read"):
        files.get("w4")


def test_tensors_outlive_their_file(tmp_path: Path) -> None:
    save_tensors(weights().items(), opener(tmp_path))
    tensor = WeightFiles(tmp_path).get("w0")
    (tmp_path / "model.safetensors").write_bytes(bytes(10_000))
    assert torch.equal(tensor, weights()["w0"])


@pytest.mark.parametrize(
    "target", ["../secret.safetensors", "/etc/secret.safetensors", "a/b.safetensors", "..", "x.bin", "", 5]
)
def test_an_index_may_only_name_safetensors_files_beside_it(tmp_path: Path, target: object) -> None:
    safetensors.torch.save_file({"w0": torch.zeros(1)}, tmp_path / "secret.safetensors")
    folder = sharded(tmp_path / "model")
    change_index(folder, w0=target)
    with pytest.raises(
        CheckpointError, match=r"no safetensors file beside it|is damaged, or has no weight_map"
    ):
        WeightFiles(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', "\xff"])
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (sharded(tmp_path) / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"index\.json is damaged, or has no weight_map"):
        WeightFiles(tmp_path)


def test_a_missing_shard_and_a_tensor_that_its_shard_lacks_are_named(tmp_path: Path) -> None:
    change_index(sharded(tmp_path / "a"), extra="model-00002-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors lacks the tensor extra"):
        WeightFiles(tmp_path / "a")
    (sharded(tmp_path / "b") / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"model-00002-of-00003\.safetensors is missing, though the index"
    ):
        WeightFiles(tmp_path / "b")


def test_shards_may_be_links_as_in_a_download_cache(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "snapshot")
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted(folder.glob("*.safetensors"))):
        blob = path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(blob)
    assert set(WeightFiles(folder).keys()) == set(weights())
