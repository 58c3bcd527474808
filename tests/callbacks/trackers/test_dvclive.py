"""DVCLive against a double of its ``Live``, whose signatures are those of dvclive 3.49."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from callbacks.trackers import dvclive
from callbacks.trackers.dvclive import DVCLiveCallback
from tests.callbacks.trackers.test_tracker import TOKEN, Model, heard_by, whole_training

PLOT = "step\tloss\n2\t2.0\n4\tnan\n"


class Live:
    """Writes down what it is told; ``begun`` has all of them."""

    begun: list[Live]

    def __init__(
        self,
        dir: str = "dvclive",
        resume: bool = False,
        report: str | None = None,
        save_dvc_exp: bool = True,
        dvcyaml: str | bool | None = "dvc.yaml",
        cache_images: bool = False,
        exp_name: str | None = None,
        exp_message: str | None = None,
        monitor_system: bool = False,
    ):
        self.about = (dir, resume, report, save_dvc_exp)
        self.plots_dir, self.step = str(Path(dir) / "plots"), 0
        self.told: list[tuple[Any, ...]] = []
        self.begun.append(self)

    def log_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def log_metric(self, name: str, val: float | str, timestamp: bool = False, plot: bool = True) -> None:
        self.told.append((self.step, name, val))

    def next_step(self) -> None:
        self.step += 1

    def log_artifact(
        self,
        path: str | Path,
        type: str | None = None,
        name: str | None = None,
        desc: str | None = None,
        labels: list[str] | None = None,
        meta: dict[str, Any] | None = None,
        copy: bool = False,
        cache: bool = True,
    ) -> None:
        held = sorted(file.name for file in Path(path).iterdir())
        self.told.append(("artifact", Path(path).name, type, name, copy, held))

    def end(self) -> None:
        self.told.append(("end",))


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Live]:
    module = ModuleType("dvclive")
    module.Live = Live  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dvclive", module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_DVCLIVE_LOG_MODEL", raising=False)
    monkeypatch.setattr(
        dvclive, "save_model", lambda folder, model, processor: (folder / "model.safetensors").touch()
    )
    Live.begun = []
    return Live.begun


def test_names_and_steps(begun: list[Live]) -> None:
    whole_training(heard_by(DVCLiveCallback()))
    (live,) = begun
    assert live.about == ("dvclive", False, None, True)
    (nan,) = (told for told in live.told if told[1:2] == ("eval/loss",))
    assert math.isnan(nan[2])
    live.told.remove(nan)
    assert live.told == [
        (1, "epoch", 0.5),
        (1, "loss", 2.0),
        (1, "train/loss", 2.0),
        (1, "train/runtime", 3.0),
        ("end",),
    ]
    assert (live.params["hidden_size"], live.params["run_name"]) == (8, "mine")
    assert TOKEN not in repr(live.params)


def test_a_resumed_run_goes_on_without_its_later_points(begun: list[Live], tmp_path: Path) -> None:
    plot = tmp_path / "here" / "plots" / "metrics" / "eval" / "loss.tsv"
    plot.parent.mkdir(parents=True)
    plot.write_text(PLOT + "6\t1.0\n")
    tracker = DVCLiveCallback(dir="here", report="md", save_dvc_exp=False)
    heard_by(tracker, global_step=4)("on_train_begin")
    assert begun[0].about == ("here", True, "md", False)
    assert plot.read_text() == PLOT


@pytest.mark.parametrize(
    ("option", "variable", "tracked"),
    [
        (None, "", []),
        (None, "false", []),
        (None, "1", ["last"]),
        (None, "ALL", ["out"]),
        (True, "all", ["last"]),
        ("all", "", ["out"]),
        (False, "true", []),
    ],
)
def test_which_models_are_tracked(
    begun: list[Live], monkeypatch: pytest.MonkeyPatch, option: Any, variable: str, tracked: list[str]
) -> None:
    monkeypatch.setenv("HF_DVCLIVE_LOG_MODEL", variable)
    Path("out/checkpoint-1").mkdir(parents=True)
    whole_training(heard_by(DVCLiveCallback(log_model=option)))
    found = [told[1:] for told in begun[0].told if told[0] == "artifact"]
    assert [told[0] for told in found] == tracked
    if tracked == ["last"]:
        assert found == [("last", "model", "last", True, ["model.safetensors"])]
    if tracked == ["out"]:
        assert found == [("out", None, None, False, ["checkpoint-1"])]


def test_the_best_model_is_called_so(begun: list[Live]) -> None:
    tell = heard_by(DVCLiveCallback(log_model=True), model=Model())
    tell.args.load_best_model_at_end = True
    whole_training(tell)
    assert [told[1] for told in begun[0].told if told[0] == "artifact"] == ["best"]


def test_a_live_of_the_program(begun: list[Live]) -> None:
    own = Live(dir="own")
    tell = heard_by(DVCLiveCallback(live=own))
    tell("on_train_begin")
    tell.close()
    tell.close()
    assert begun == [own]
    assert own.told == [("end",)], "once, also when the training fails"
    with pytest.raises(
        ValueError, match=r"^live: 'dvclive' was given; a dvclive\.Live of the program's would"
    ):
        DVCLiveCallback(live="dvclive")
