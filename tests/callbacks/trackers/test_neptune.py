"""Neptune against a double of its client, whose signatures are those of neptune 1.14."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from callbacks.trackers.neptune import NeptuneCallback
from conf.errors import ConfigError
from tests.callbacks.trackers.test_tracker import TOKEN, heard_by, whole_training

Told = list[tuple[Any, ...]]


class MissingFieldError(Exception):
    """What a field without a value raises."""


class FileSet:
    """The files that fit patterns, read when it is sent."""

    def __init__(self, file_globs: str | list[str]):
        self.files = [
            file.name for glob in file_globs for file in Path().glob(str(Path(glob).relative_to("/")))
        ]
        self.file_globs = file_globs


class Handler:
    """A place in a run."""

    def __init__(self, run: Run, path: str):
        self.run, self.path = run, path

    def __getitem__(self, path: str) -> Handler:
        return Handler(self.run, f"{self.path}/{path}")

    def __setitem__(self, path: str, value: Any) -> None:
        self.run.told.append(("set", f"{self.path}/{path}", value))

    def append(
        self, value: Any, *, step: float | None = None, timestamp: float | None = None, wait: bool = False
    ) -> None:
        self.run.told.append(("append", self.path, value, step))

    def fetch(self) -> Any:
        if self.run.id is None:
            raise MissingFieldError(self.path)
        return self.run.id


class Run:
    """A run, told of by ``init_run``."""

    def __init__(self, number: str | None):
        self.id, self.told = number, Told()

    def __getitem__(self, path: str) -> Handler:
        return Handler(self, path)

    def stop(self, *, seconds: float | None = None) -> None:
        kept = [
            each[2].file_globs[0].removesuffix("/**/*") for each in self.told if isinstance(each[2], FileSet)
        ]
        self.told.append(("stop", "", [Path(folder).is_dir() for folder in kept]))


class Neptune:
    """The package; ``begun`` has each run with what ``init_run`` was given."""

    def __init__(self) -> None:
        self.begun: list[tuple[Run, dict[str, Any]]] = []

    def init_run(
        self,
        with_id: str | None = None,
        *,
        project: str | None = None,
        api_token: str | None = None,
        custom_run_id: str | None = None,
        mode: str | None = None,
        name: str | None = None,
    ) -> Run:
        number = None if mode == "offline" else with_id or f"RUN-{len(self.begun) + 1}"
        given = {"with_id": with_id, "project": project, "mode": mode, "name": name}
        self.begun.append((Run(number), given))
        return self.begun[-1][0]


@pytest.fixture(autouse=True)
def neptune(monkeypatch: pytest.MonkeyPatch) -> Neptune:
    package = Neptune()
    main, utils, types, exceptions = map(
        ModuleType, ("neptune", "neptune.utils", "neptune.types", "neptune.exceptions")
    )
    unsupported: Callable[[Any], Any] = lambda value: value  # noqa: E731
    main.init_run, main.exceptions = package.init_run, exceptions  # type: ignore[attr-defined]
    exceptions.MissingFieldException = MissingFieldError  # type: ignore[attr-defined]
    utils.stringify_unsupported = unsupported  # type: ignore[attr-defined]
    types.FileSet = FileSet  # type: ignore[attr-defined]
    for module in (main, utils, types, exceptions):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return package


def test_what_a_run_holds(neptune: Neptune) -> None:
    tracker = NeptuneCallback(project="us/mine")
    whole_training(heard_by(tracker))
    ((run, given),) = neptune.begun
    assert given == {"with_id": None, "project": "us/mine", "mode": None, "name": "mine"}
    told = {path: value for _, path, value, *_ in run.told}
    assert told["finetuning/trainer_parameters"]["run_name"] == "mine"
    assert told["finetuning/model_parameters"]["hidden_size"] == 8
    assert TOKEN not in repr(run.told)
    assert ("set", "finetuning/train/epoch", 0.5) in run.told
    assert ("append", "finetuning/train/loss", 2.0, 1) in run.told
    assert ("append", "finetuning/train/train_runtime", 3.0, 1) in run.told
    assert run.told[-1][0] == "stop"
    assert tracker.run_id == "RUN-1"


def test_a_resumed_run_goes_on_in_the_same_one(neptune: Neptune) -> None:
    tell = heard_by(NeptuneCallback())
    tell("on_train_begin")
    saved = json.loads(json.dumps(tell.state_dict()))
    tell.close()
    tell = heard_by(NeptuneCallback(run_name="other"), global_step=4)
    tell.load_state_dict(saved)
    tell("on_train_begin")
    given = neptune.begun[1][1]
    assert (given["with_id"], given["name"]) == ("RUN-1", "other")


@pytest.mark.parametrize(
    ("kind", "places"),
    [(None, []), ("same", ["checkpoint-1", "checkpoint-2"]), ("last", ["last", "last"]), ("best", ["best"])],
)
@pytest.mark.parametrize("mode", [None, "offline"])
def test_which_checkpoints_are_uploaded(
    neptune: Neptune, tmp_path: Path, kind: Any, places: list[str], mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    tell = heard_by(NeptuneCallback(log_checkpoints=kind, mode=mode, log_parameters=False), tmp_path)
    tell.args.load_best_model_at_end, tell.state.best_global_step = True, 2
    tell("on_train_begin")
    for tell.state.global_step in (1, 2):
        folder = tmp_path / f"checkpoint-{tell.state.global_step}"
        folder.mkdir()
        (folder / f"weights-{tell.state.global_step}").touch()
        tell("on_save")
    tell("on_train_end")
    tell.close()
    run = neptune.begun[0][0]
    *sets, (_, _, were_there) = run.told
    assert [path for _, path, _ in sets] == [f"finetuning/checkpoints/{place}" for place in places]
    steps = (1, 2) if len(places) == 2 else (2,)
    assert [files.files for _, _, files in sets] == [[f"weights-{step}"] for step in steps[: len(places)]]
    assert were_there == [True] * len(places), "until all is sent"
    folders = [Path(files.file_globs[0].removesuffix("/**/*")) for _, _, files in sets]
    assert [folder.is_dir() for folder in folders] == [mode == "offline"] * len(places)


def test_the_best_one_has_to_be_known() -> None:
    with pytest.raises(
        ConfigError, match=r"log_checkpoints=best needs checkpoint\.load_best_model_at_end=true"
    ):
        heard_by(NeptuneCallback(log_checkpoints="best"))("on_train_begin")


def test_a_run_of_the_program_is_used_and_left_open(neptune: Neptune) -> None:
    own = Run("RUN-9")
    tracker = NeptuneCallback(run=own, base_namespace="here", log_parameters=False)
    whole_training(heard_by(tracker, is_hyper_param_search=True, trial_name="3", trial_params={"seed": 7}))
    assert neptune.begun == []
    assert own.told[:2] == [("set", "here/trial", "3"), ("set", "here/trial_params", {"seed": 7})]
    assert "stop" not in {each[0] for each in own.told}
    assert tracker.run_id == "RUN-9"
    with pytest.raises(ValueError, match=r"^run: 'RUN-9' was given; a run of neptune\.init_run would do\.$"):
        NeptuneCallback(run="RUN-9")
