"""The frames are the reference's; the first number that is not finite ends the run with its own status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.debug_utils import DebugUnderflowOverflow as Oracle

from callbacks import DebugUnderflowOverflow, UnderflowOverflowCallback
from conf.errors import ConfigError, NonFiniteError, StockpotError
from tests.trainer.small_program import listening, program, trained, weights


class Block(nn.Module):
    """Returns what modules return in practice: tensors, tuples in tuples, nothing, and more."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.inner, self.act, self.scale = nn.Linear(4, 4), nn.GELU(), scale

    def forward(self, x: Tensor, mask: Any = None, choice: str = "") -> Any:
        y = self.act(self.inner(x)) * self.scale
        return y, (y.sum(), None), choice


class Net(nn.Module):
    """Two blocks, the second of which may leave the numbers there are."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.words, self.first, self.second = nn.Embedding(7, 4), Block(), Block(scale)

    def forward(self, ids: Tensor) -> Tensor:
        x, _, _ = self.first(self.words(ids), None, "text")
        return self.second(x)[0]


def net(scale: float = 1.0) -> Net:
    torch.manual_seed(0)
    return Net(scale)


IDS = torch.tensor([[1, 2, 0], [3, 4, 6]])


def printed(
    kind: Any, capsys: Any, *, scale: float = 1.0, batches: int = 4, **options: Any
) -> tuple[str, Any]:
    """What is printed of some batches, and the error that ended them."""
    model, error = net(scale), None
    kind(model, **options)
    try:
        for _ in range(batches):
            model(IDS)
    except (ValueError, StockpotError) as raised:
        error = raised
    lines = capsys.readouterr().out.splitlines()
    # The reference says on the way what it found, and its report ends in empty lines.
    return "\n".join(line for line in lines if not line.endswith((" has infs", " has nans"))).strip(), error


@pytest.mark.parametrize(
    "options",
    [
        {"trace_batch_nums": [0]},
        {"trace_batch_nums": [1, 3]},
        {"trace_batch_nums": [1], "abort_after_batch_num": 2},
        {"abort_after_batch_num": 0},
    ],
)
def test_batches_are_traced_and_ended_as_by_the_reference(options: dict[str, Any], capsys: Any) -> None:
    theirs, their_error = printed(Oracle, capsys, **options)
    ours, our_error = printed(DebugUnderflowOverflow, capsys, **options)
    assert ours == theirs
    assert ours.count("Linear") == 2 * len(options.get("trace_batch_nums", []))
    assert (our_error is None) == (their_error is None)
    if our_error is not None:
        number = options["abort_after_batch_num"]
        assert str(our_error) == (
            f"underflow_overflow: stopped after batch {number}, as abort_after_batch_num={number} asks."
        )


@pytest.mark.parametrize("frames", [1, 3, 21])
def test_a_report_has_the_frames_of_the_reference(frames: int, capsys: Any) -> None:
    theirs, their_error = printed(Oracle, capsys, scale=1e39, max_frames_to_save=frames)
    ours, our_error = printed(DebugUnderflowOverflow, capsys, scale=1e39, max_frames_to_save=frames)
    assert ours == theirs
    assert ours.startswith(f"Detected inf/nan during batch_number=0\nLast {min(frames, 7)} forward frames:")
    assert isinstance(their_error, ValueError)
    assert isinstance(our_error, NonFiniteError)
    assert our_error.exit_status == 3
    assert str(our_error) == (
        "underflow_overflow: in batch 0, second (Block): output[0] has inf, output[1][0] has nan; the frames "
        "before it are printed above."
    )


def test_a_weight_that_is_not_a_number_is_found(capsys: Any) -> None:
    model = net()
    with torch.no_grad():
        model.first.inner.bias[1] = torch.nan
    DebugUnderflowOverflow(model)
    with pytest.raises(NonFiniteError, match=r"first\.inner \(Linear\): bias has nan, output has nan"):
        model(IDS)


def test_what_is_given_by_name_and_returned_by_name_is_looked_at(capsys: Any) -> None:
    class Named(nn.Module):
        def forward(self, *, x: Tensor, mask: Tensor, none: Tensor) -> dict[str, Tensor]:
            return {"y": x + 1}

    model = Named()
    watch = DebugUnderflowOverflow(model, trace_batch_nums=[0])
    model(x=torch.tensor([-2.0, 0.5]), mask=torch.tensor([True, False]), none=torch.empty(0))
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "5.00e-01 2.00e+00 input[x]",
        "0.00e+00 1.00e+00 input[mask]",
        "            empty input[none]",
        "1.00e+00 1.50e+00 output[y]",
    ]
    watch.close()
    assert not model._forward_hooks
    model(x=torch.tensor([torch.inf]), mask=torch.tensor([True]), none=torch.empty(0))


# -- as a callback -------------------------------------------------------------------------------------


def test_a_training_is_watched_and_stays_the_same(tmp_path: Path, capsys: Any) -> None:
    watched = trained(tmp_path, parts={"callbacks": [UnderflowOverflowCallback(trace_batch_nums=(1,))]})
    out = capsys.readouterr().out
    assert out.count("*** Starting batch number=") == 1
    assert "words Embedding" in out
    assert torch.equal(weights(watched), weights(trained(tmp_path)))
    assert not any(module._forward_hooks for module in watched.model.modules())


def test_the_module_is_named_before_the_loss_is_not_finite(tmp_path: Path, capsys: Any) -> None:
    def spoil(state: Any) -> None:
        if state.global_step == 2:
            made.model.scores.weight.data[0, 0] = torch.inf

    callbacks = [UnderflowOverflowCallback(max_frames_to_save=2), listening(on_step_end=spoil)]
    made = program(tmp_path, parts={"callbacks": callbacks})
    with pytest.raises(
        NonFiniteError, match=r"^underflow_overflow: in batch 2, scores \(Linear\): weight has"
    ):
        made.train()
    assert "Last 2 forward frames:" in capsys.readouterr().out
    assert not any(module._forward_hooks for module in made.model.modules()), "closed by the error too"


def test_a_recipe_is_watched(train: Any, tiny: Sequence[str]) -> None:
    done = train(*tiny, "callbacks.underflow_overflow={}")
    assert done.status == 0, "an attention mask is no overflow"
    without = train(*tiny, "output_dir=without")
    assert (done.folder / "model.safetensors").read_bytes() == (
        without.folder / "model.safetensors"
    ).read_bytes()
    stopped = train(*tiny, "callbacks.underflow_overflow={abort_after_batch_num: 0}", "output_dir=stopped")
    assert stopped.status == 1
    assert str(stopped.error).startswith("underflow_overflow: stopped after batch 0")


def test_a_compiled_model_is_not_watched(tmp_path: Path) -> None:
    parts = {"callbacks": [UnderflowOverflowCallback()]}
    with pytest.raises(ConfigError, match=r"^callbacks\.underflow_overflow: a compiled model"):
        program(tmp_path, parts=parts, torch_compile=True).train()


def test_a_frame_is_kept() -> None:
    with pytest.raises(ValueError, match=r"^max_frames_to_save: at least 1 is wanted, 0 was given\.$"):
        UnderflowOverflowCallback(max_frames_to_save=0)
