"""Models from and to checkpoint folders: what fits, what does not, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Barrier, current_thread

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conf.errors import CheckpointError
from models.weights import (
    Concatenate,
    GivenTensors,
    KeyMap,
    MergeModulelist,
    Mismatch,
    PermuteForRope,
    WeightConverter,
    WeightFiles,
    checkpoint_names,
    load_weights,
    named_checkpoint_tensors,
    save_weights,
)
from models.weights.load import THREADS
from models.weights.safetensors import CHUNK


class Backbone(nn.Module):
    def __init__(self, vocabulary: int, width: int, num_layers: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))
        self.register_buffer("counts", torch.zeros(3, dtype=torch.int64))
        with torch.device("cpu"):
            self.register_buffer("table", torch.arange(4.0), persistent=False)


class Toy(nn.Module):
    """A backbone and a head, tied on request, with the map that a family's tables give."""

    keymap = KeyMap(
        renames=(("head.weight", "lm_head.weight"), ("backbone.", "model.")),
        legacy=(("", "backbone."),),
        ignored=(r".*\.inv_freq",),
    )

    def __init__(self, *, tied: bool = False, vocabulary: int = 11, width: int = 4, num_layers: int = 2):
        super().__init__()
        self.backbone = Backbone(vocabulary, width, num_layers)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.backbone.embed.weight


def toy(seed: int = 0, **shape) -> Toy:
    torch.manual_seed(seed)
    model = Toy(**shape)
    model.backbone.counts += torch.arange(3)
    return model


def on_meta(**shape) -> Toy:
    with torch.device("meta"):
        return Toy(**shape)


def opener(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    return lambda relpath: (folder / relpath).open("xb")


def save(model: nn.Module, folder: Path, **options) -> Path:
    save_weights(model, opener(folder), **options)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype, name
        assert torch.equal(ours[name], theirs[name]), name


KEYS = [
    "model.counts",
    "model.embed.weight",
    "model.layers.0.weight",
    "model.layers.0.bias",
    "model.layers.1.weight",
    "model.layers.1.bias",
    "lm_head.weight",
]


@pytest.mark.parametrize("max_shard_size", ["50GB", 200])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("make", [on_meta, lambda **shape: toy(seed=1, **shape)], ids=["meta", "real"])
def test_a_saved_model_is_loaded_exactly(tmp_path: Path, make, tied: bool, max_shard_size) -> None:
    model = toy(tied=tied)
    folder = save(model, tmp_path, max_shard_size=max_shard_size)
    loaded = make(tied=tied)
    report = load_weights(loaded, folder)
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert_same(loaded, model)
    assert (loaded.head.weight is loaded.backbone.embed.weight) == tied
    assert torch.equal(loaded.backbone.table, torch.arange(4.0))
    assert sorted(WeightFiles(folder).keys()) == sorted(KEYS[: 6 if tied else 7])


def test_names_are_the_checkpoints_and_tied_ones_are_given_once() -> None:
    assert sorted(checkpoint_names(toy()).values()) == sorted(KEYS)
    names = checkpoint_names(toy(tied=True))
    assert "head.weight" not in names
    assert names["backbone.embed.weight"] == "model.embed.weight"
    tensors = dict(named_checkpoint_tensors(model := toy(tied=True)))
    assert list(tensors) == KEYS[:6]
    assert tensors["model.embed.weight"] is model.head.weight


def test_two_names_of_one_key_are_refused() -> None:
    model = nn.Module()
    model.a, model.b = nn.Linear(2, 2), nn.Linear(2, 2)
    model.keymap = KeyMap(renames=(("a.", "x."), ("b.", "y."), ("", "")))
    assert checkpoint_names(model) == {
        "a.weight": "x.weight",
        "a.bias": "x.bias",
        "b.weight": "y.weight",
        "b.bias": "y.bias",
    }
    model.y = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="ambiguous renames"):
        checkpoint_names(model)


@pytest.mark.parametrize("present", ["model.embed.weight", "lm_head.weight", "both"])
def test_tied_weights_are_found_under_either_key(tmp_path: Path, present: str) -> None:
    model = toy(tied=True)
    folder = save(model, tmp_path)

    def change(tensors: dict[str, Tensor]) -> None:
        shared = tensors.pop("model.embed.weight")
        for key in ("model.embed.weight", "lm_head.weight") if present == "both" else (present,):
            tensors[key] = shared.clone()

    loaded = on_meta(tied=True)
    report = load_weights(loaded, rewrite(folder, change))
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert loaded.head.weight is loaded.backbone.embed.weight
    assert_same(loaded, model)


def test_two_different_tensors_for_tied_weights_are_an_error(tmp_path: Path) -> None:
    folder = save(toy(), tmp_path)
    message = "different tensors model.embed.weight and lm_head.weight.*set tie_word_embeddings to false"
    with pytest.raises(CheckpointError, match=message):
        load_weights(on_meta(tied=True), folder)


def test_untied_weights_saved_as_tied_are_missing(tmp_path: Path) -> None:
    loaded = on_meta()
    report = load_weights(loaded, save(toy(tied=True), tmp_path))
    assert report.missing == ("lm_head.weight",)
    assert loaded.head.weight.is_meta
    assert not loaded.backbone.embed.weight.is_meta


def test_what_does_not_fit_is_reported_by_checkpoint_keys(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["model.layers.1.bias"], tensors["model.counts"]
        tensors["model.layers.0.weight"] = torch.zeros(3, 5)
        tensors["model.layers.7.weight"] = torch.zeros(1)
        tensors["stranger"] = torch.zeros(1)
        tensors["model.layers.0.inv_freq"] = torch.zeros(1)

    loaded = toy(seed=1)
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    report = load_weights(loaded, rewrite(save(toy(), tmp_path), change))
    assert report.missing == ("model.counts", "model.layers.1.bias")
    assert sorted(report.unexpected) == ["model.layers.7.weight", "stranger"]
    assert report.mismatched == (Mismatch(key="model.layers.0.weight", expected=(4, 4), found=(3, 5)),)
    for name in ("backbone.layers.1.bias", "backbone.layers.0.weight", "backbone.counts"):
        assert torch.equal(loaded.state_dict()[name], before[name])
    assert torch.equal(loaded.head.weight, toy().head.weight)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8], ids=str)
def test_quantized_weights_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.weight"] = tensors["model.layers.0.weight"].to(dtype)

    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(
        CheckpointError, match=rf"model\.layers\.0\.weight is {kind}; quantized weights are not"
    ):
        load_weights(on_meta(), rewrite(save(toy(), tmp_path), change))


def test_a_bare_backbones_file_fills_the_backbone(tmp_path: Path) -> None:
    model = toy()
    save_file({k: v.clone() for k, v in model.backbone.state_dict().items()}, tmp_path / "model.safetensors")
    loaded = on_meta()
    report = load_weights(loaded, tmp_path)
    assert (report.missing, report.unexpected, report.mismatched) == (("lm_head.weight",), (), ())
    assert_same(loaded.backbone, model.backbone)


def test_where_a_file_has_both_spellings_todays_wins(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["layers.0.bias"] = torch.full((4,), 9.0)
        tensors["zz.layers.0.bias"] = torch.full((4,), 9.0)

    loaded = on_meta()
    report = load_weights(loaded, rewrite(save(toy(), tmp_path), change))
    assert sorted(report.unexpected) == ["layers.0.bias", "zz.layers.0.bias"]
    assert_same(loaded, toy())


def test_floating_point_tensors_take_the_dtype_asked_for(tmp_path: Path) -> None:
    folder = save(toy(), tmp_path)
    loaded = on_meta()
    load_weights(loaded, folder, dtype=torch.bfloat16)
    assert loaded.head.weight.dtype == torch.bfloat16
    assert torch.equal(loaded.head.weight, toy().head.weight.bfloat16())
    assert loaded.backbone.counts.dtype == torch.int64
    unasked = on_meta().to(torch.float16)
    load_weights(unasked, folder)
    assert unasked.head.weight.dtype == torch.float16


def test_bf16_is_kept_bit_for_bit(tmp_path: Path) -> None:
    model = toy().to(torch.bfloat16)
    loaded = on_meta().to(torch.bfloat16)
    load_weights(loaded, save(model, tmp_path))
    assert_same(loaded, model)


def test_frozen_stays_frozen_and_memory_is_aligned_as_torch_aligns(tmp_path: Path) -> None:
    loaded = on_meta()
    loaded.backbone.requires_grad_(False)
    load_weights(loaded, save(toy(), tmp_path))
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == {"head.weight"}
    assert all(tensor.data_ptr() % 64 == 0 for tensor in loaded.state_dict().values())


def test_real_tensors_are_overwritten_where_they_are(tmp_path: Path) -> None:
    loaded = toy(seed=1)
    parameters = list(loaded.parameters())
    load_weights(loaded, save(toy(), tmp_path))
    assert all(now is before for now, before in zip(loaded.parameters(), parameters, strict=True))


def test_a_table_left_on_the_meta_device_is_noticed(tmp_path: Path) -> None:
    loaded = on_meta()
    loaded.backbone.table = loaded.backbone.table.to("meta")
    with pytest.raises(AssertionError, match=r"never saved, yet on the meta device: \['backbone\.table'\]"):
        load_weights(loaded, save(toy(), tmp_path))


# --- threads --------------------


@pytest.mark.parametrize(("variable", "expected"), [("", THREADS), ("0", THREADS), ("1", 1), ("true", 1)])
def test_threads_read_unless_they_are_turned_off(monkeypatch, variable: str, expected: int) -> None:
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", variable)
    all_here = Barrier(expected)
    names = set()

    class Watched(GivenTensors):
        def reads(self, key: str, out: Tensor):
            def read() -> None:
                if len(names) < expected:
                    names.add(current_thread().name)
                    all_here.wait(timeout=20)
                out.detach().copy_(self.get(key))

            yield read

    model, loaded = toy(num_layers=8), on_meta(num_layers=8)
    load_weights(loaded, Watched(dict(named_checkpoint_tensors(model))))
    assert len(names) == expected
    assert (current_thread().name in names) == (expected == 1)
    assert_same(loaded, model)


@pytest.mark.parametrize("chunk", [4, 20, CHUNK])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_of_tensors_fall_into_their_places(tmp_path: Path, monkeypatch, chunk: int, dtype) -> None:
    monkeypatch.setattr("models.weights.safetensors.CHUNK", 2 * chunk)
    monkeypatch.setattr("models.weights.safetensors.STAGED", chunk)
    model, loaded = toy(), on_meta()
    load_weights(loaded, save(model, tmp_path), dtype=dtype)
    strided = torch.zeros(4, 11).T
    for read in WeightFiles(tmp_path).reads("lm_head.weight", strided):
        read()
    assert torch.equal(strided, model.head.weight)
    assert_same(loaded, model.to(dtype))


def test_a_file_truncated_meanwhile_is_an_error(tmp_path: Path) -> None:
    files = WeightFiles(save(toy(), tmp_path))
    with (tmp_path / "model.safetensors").open("r+b") as stream:
        stream.truncate((tmp_path / "model.safetensors").stat().st_size - 4)
    with pytest.raises(CheckpointError, match=r"cannot be read: the file is shorter than it was"):
        load_weights(on_meta(), files)


# --- memory --------------------


def peak_growth(action: Callable[[], object]) -> int:
    """Bytes by which this process's resident memory grew at its highest during the action."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now

    def status(field: str) -> int:
        line = next(
            line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)
        )
        return int(line.split()[1]) * 1024

    before = status("VmRSS")
    kept = action()
    grown = status("VmHWM") - before
    del kept
    return grown


LARGE = {"vocabulary": 3072, "width": 3072, "num_layers": 3}
MATRIX = 3072 * 3072 * 4  # 36 MiB: from 32 MiB on, the allocator returns what is freed to the system at once
NUM_MATRICES = 5
SLACK = 8 << 20


def test_loading_takes_the_weights_and_one_tensor_more(tmp_path: Path) -> None:
    folder = save(toy(**LARGE), tmp_path)

    def with_a_second_copy() -> object:
        files, model = WeightFiles(folder), on_meta(**LARGE)
        copy = [files.get(key) for key in files.keys()]  # noqa: SIM118
        load_weights(model, files)
        return copy, model

    model = on_meta(**LARGE)
    grown = peak_growth(lambda: load_weights(model, folder))
    assert NUM_MATRICES * MATRIX < grown < (NUM_MATRICES + 1) * MATRIX + SLACK
    assert peak_growth(with_a_second_copy) > 2 * NUM_MATRICES * MATRIX, (
        "the measure does not see a second copy"
    )


class Experts(nn.Module):
    """Numbered tensors, merged where they are read to, and rows to be permuted, which takes memory."""

    keymap = KeyMap(
        renames=(("", ""),),
        converters=(
            WeightConverter(("up.*.a", "up.*.b"), "up.both", (MergeModulelist(dim=0), Concatenate(dim=1))),
            WeightConverter("q", "query", (PermuteForRope(heads=4),)),
        ),
    )

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ParameterDict({"both": torch.zeros(4, 2 * 1536, 3072)})
        self.layers = nn.ModuleList(
            nn.ParameterDict({"query": torch.zeros(3072, 3072)}) for _ in range(NUM_MATRICES)
        )


def test_converting_takes_the_weights_and_the_largest_conversion(tmp_path: Path) -> None:
    model = Experts()
    for number, parameter in enumerate(model.parameters()):
        nn.init.constant_(parameter, number)
    size = sum(parameter.nbytes for parameter in model.parameters())
    assert peak_growth(lambda: save(model, tmp_path)) < MATRIX + SLACK
    assert "up.3.b" in WeightFiles(tmp_path)
    for dtype, part in ((torch.float32, 1), (torch.bfloat16, 2)):
        with torch.device("meta"):
            loaded = Experts().to(dtype)
        grown = peak_growth(lambda model=loaded: load_weights(model, tmp_path))
        assert size / part < grown < size / part + 2 * MATRIX + SLACK
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_saving_takes_no_more_than_one_tensor(tmp_path: Path) -> None:
    model = toy(**LARGE)
    assert peak_growth(lambda: save(model, tmp_path / "a")) < SLACK
    for layer in model.backbone.layers:
        layer.weight.data = layer.weight.data.T
    assert peak_growth(lambda: save(model, tmp_path / "b")) < MATRIX + SLACK
