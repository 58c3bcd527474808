"""What the options of logging, publishing and generation change."""

from __future__ import annotations

import json
import logging as standard_logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from torch import nn

from conf import logging
from conf.errors import ConfigError, NonFiniteError
from tests.trainer.small_program import lines, listening, program, rows, steps, tagger, trained
from tests.trainer.test_hub import LocalHub, content


@pytest.fixture(autouse=True)
def verbosity_as_it_was() -> Iterator[None]:
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"logging_steps": 500}, [6]),
        ({"logging_steps": 2}, [2, 4, 6]),
        ({"logging_steps": 0.4}, [3, 6]),
        ({"logging_steps": 4}, [4, 6]),
        ({"logging_steps": 4, "logging_first_step": True}, [1, 4, 6]),
        ({"logging_strategy": "epoch"}, [3, 6]),
        ({"logging_strategy": "no"}, []),
    ],
    ids=str,
)
def test_when_it_logs(given: dict[str, Any], wanted: list[int], tmp_path: Path) -> None:
    assert steps(trained(tmp_path, num_train_epochs=2, **given), "loss") == wanted


def test_progress_is_silent(tmp_path: Path, capsys: Any) -> None:
    for disabled in (False, True):
        capsys.readouterr()
        trained(tmp_path, disable_tqdm=disabled)
        assert ("step 1/3 | epoch 0.33 | loss" in capsys.readouterr().err) != disabled


def test_trackers_are_reported_to(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for given, folder in (
        ({"report_to": "none"}, None),
        ({"report_to": ["tensorboard"]}, "tensorboard"),
        ({"report_to": "tensorboard", "logging_dir": str(tmp_path / "told")}, "told"),
    ):
        made = trained(tmp_path, **given)
        found = sorted(path.parent for path in tmp_path.rglob("events.out.tfevents.*"))
        wanted = tmp_path / folder if folder == "told" else made.output_dir / (folder or "")
        assert found == ([] if folder is None else [wanted])
        if folder is not None:
            events = EventAccumulator(str(wanted)).Reload()
            shutil.rmtree(wanted)
            values = [event.value for event in events.Scalars("train/loss")]
            assert values == pytest.approx(lines(made, "loss"))


def test_a_project_at_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trackio

    asked: dict[str, Any] = {}

    def init(**given: Any) -> Any:
        asked.update(given)
        return original(**{**given, "space_id": None})  # nothing is published

    original = trackio.init
    monkeypatch.setattr(trackio, "init", init)
    for given, wanted in (
        ({}, ("stockpot", None)),
        ({"project": "mine", "trackio_space_id": "me/space"}, ("mine", "me/space")),
    ):
        trained(tmp_path / str(len(given)), report_to=["trackio"], **given)
        assert (asked["project"], asked["space_id"]) == wanted
    for name in ("project", "trackio_space_id", "logging_dir"):
        with pytest.raises(ConfigError, match=f"^{name}: 'me/space' has no effect without "):
            program(tmp_path, report_to=["none"], **{name: "me/space"})


def test_numbers_that_are_not_finite_are_looked_for(tmp_path: Path) -> None:
    broken = tagger()
    with torch.no_grad():
        next(broken.parameters()).fill_(math.inf)
    with pytest.raises(NonFiniteError) as plain:
        program(tmp_path, parts={"model": broken}).train()
    with pytest.raises(NonFiniteError) as told:
        program(tmp_path, parts={"model": broken}, debug="underflow_overflow").train()
    assert "weight" not in str(plain.value)
    assert "weight" in str(told.value)


def test_a_run_has_a_name(tmp_path: Path, train: Any, tiny: tuple[str, ...]) -> None:
    done = train(*tiny, "logging.run_name=first-attempt", "check=true")
    assert ["run", "first-attempt"] in [line.split() for line in done.out.splitlines()]
    for name in (None, "first-attempt"):
        made = trained(tmp_path, run_name=name, max_steps=1)
        assert yaml.safe_load((made.output_dir / "plan.yaml").read_text())["run_name"] == name


def test_how_much_is_said(tmp_path: Path, capsys: Any) -> None:
    for level, number, plan_is_told in (
        ("passive", logging.get_verbosity(), False),
        ("info", standard_logging.INFO, True),
        ("error", standard_logging.ERROR, False),
    ):
        capsys.readouterr()
        trained(tmp_path, log_level=level, max_steps=1)
        assert logging.get_verbosity() == number
        assert ("steps: 1" in capsys.readouterr().err) == plan_is_told


@pytest.mark.parametrize(
    ("rank", "local_rank", "given", "level"),
    [
        (0, 0, {}, "info"),
        (1, 1, {}, "warning"),
        (1, 1, {"log_level_replica": "error"}, "error"),
        (2, 0, {}, "info"),
        (2, 0, {"log_on_each_node": False}, "warning"),
        (2, 0, {"log_on_each_node": False, "log_level_replica": "critical"}, "critical"),
    ],
)
def test_how_much_other_processes_say(
    rank: int, local_rank: int, given: dict[str, Any], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes of two processes each."""
    from trainer.training_arguments import TrainingArguments

    for name, value in (("RANK", rank), ("LOCAL_RANK", local_rank), ("WORLD_SIZE", 4)):
        monkeypatch.setenv(name, str(value))
    arguments = TrainingArguments(log_level="info", **given)
    assert arguments.get_process_log_level() == logging.LEVELS[level]


@pytest.mark.parametrize(
    ("value", "counted"),
    [("no", None), (False, None), ("all", [32, 64, 96]), (True, [32, 64, 96]), ("non_padding", [24, 48, 72])],
)
def test_tokens_are_counted(value: Any, counted: list[int] | None, tmp_path: Path) -> None:
    """Of rows of four tokens, one of them padding."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = tagger()

        def forward(self, input_ids: Any, labels: Any = None, attention_mask: Any = None) -> Any:
            return self.inside(input_ids, labels)

    data = [{**row, "attention_mask": [1, 1, 1, 0]} for row in rows()]
    parts = {"model": Masked(), "train_dataset": data}
    made = trained(tmp_path, parts=parts, include_num_input_tokens_seen=value)
    assert lines(made, "num_input_tokens_seen")[:3] == (counted or [])
    assert bool(lines(made, "train_tokens_per_second")) == (counted is not None)


def test_memory_is_measured(tmp_path: Path) -> None:
    for skip in (True, False):
        made = program(tmp_path, skip_memory_metrics=skip, max_steps=1)
        metrics = made.train().metrics
        assert ("train_mem_cpu_alloc_delta" in metrics) != skip
        assert ("init_mem_cpu_peaked_delta" in metrics) != skip
        results = json.loads((made.output_dir / "train_results.json").read_text())
        assert ("train_mem_cpu_peaked_delta" in results) != skip


# -- publishing ----------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """A hub whose repositories are folders below ``hub``."""
    local = LocalHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **options: local)
    return local


def called(hub: LocalHub, method: str) -> list[dict[str, Any]]:
    return [call for name, call in hub.calls if name == method]


def test_a_model_is_published(hub: LocalHub, tmp_path: Path) -> None:
    trained(tmp_path)
    assert hub.calls == []
    trained(tmp_path, push_to_hub=True, output_dir=str(tmp_path / "mine"))
    assert {"model.safetensors", "README.md"} <= set(content(hub.root / "me/mine"))


def test_where_a_model_is_published(hub: LocalHub, tmp_path: Path) -> None:
    given = {"push_to_hub": True, "max_steps": 1}
    trained(tmp_path, **given)
    (plain,) = called(hub, "create_repo")
    assert (plain["private"], plain["token"]) == (None, None)
    assert not called(hub, "create_branch")
    hub.calls.clear()
    trained(
        tmp_path,
        hub_model_id="us/ours",
        hub_private_repo=True,
        hub_token="hf_TheSecret",
        hub_revision="next",
        **given,
    )
    (made,) = called(hub, "create_repo")
    assert (made["repo_id"], made["private"], made["token"]) == ("us/ours", True, "hf_TheSecret")
    assert called(hub, "create_branch")[0]["branch"] == "next"
    for upload in called(hub, "upload_folder"):
        assert (upload["repo_id"], upload["revision"]) == ("us/ours", "next")
        assert upload["token"] == "hf_TheSecret"


@pytest.mark.parametrize(
    ("strategy", "checkpoints", "commits"),
    [
        ("end", set(), 1),
        ("every_save", set(), 3),
        ("checkpoint", {"last-checkpoint"}, 3),
        ("all_checkpoints", {"checkpoint-2", "checkpoint-3"}, 3),
    ],
)
def test_what_is_published(
    strategy: str, checkpoints: set[str], commits: int, hub: LocalHub, tmp_path: Path
) -> None:
    """hub_strategy says it; of two checkpoints and the end."""
    given: dict[str, Any] = {"push_to_hub": True, "save_steps": 2, "output_dir": str(tmp_path / "mine")}
    if strategy != "end":
        given["hub_always_push"] = True
    trained(tmp_path, hub_strategy=strategy, **given)
    found = {name.split("/")[0] for name in content(hub.root / "me/mine")}
    assert {name for name in found if "checkpoint" in name} == checkpoints
    assert len(hub.commits) == commits


def test_pushing_while_the_last_push_runs(hub: LocalHub, tmp_path: Path) -> None:
    """Each save meets a push that has not ended: it is left out, unless hub_always_push."""
    for always, commits in ((False, 2), (True, 4)):
        hub.gate.clear()
        hub.commits.clear()
        callback = listening(on_train_end=lambda state: hub.gate.set())
        given = {"push_to_hub": True, "save_steps": 1, "hub_always_push": always}
        trained(tmp_path, parts={"callbacks": [callback]}, **given)
        assert len(hub.commits) == commits


# -- generation ----------------------------------------------------------------------------------------


class Writer(nn.Module):
    """A tagger that writes the token 7 as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.asked = tagger(), list[dict[str, Any]]()
        self.config = type("Config", (), {"pad_token_id": 0})()

    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        return self.inside(input_ids, labels)

    def generate(self, input_ids: Any, **options: Any) -> Any:
        self.asked.append(options)
        return torch.full((len(input_ids), options.get("max_length", 5)), 7)


def test_predictions_are_generated(tmp_path: Path) -> None:
    for generates in (False, True):
        made = program(tmp_path, seq2seq=True, parts={"model": Writer()}, predict_with_generate=generates)
        predictions = made.predict(rows(3)).predictions
        if generates:
            assert predictions.tolist() == [[7] * 5] * 3
        else:
            assert predictions.shape == (3, 4, 12), "scores"


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {}),
        ({"generation_max_length": 6}, {"max_length": 6}),
        ({"generation_num_beams": 3}, {"num_beams": 3}),
        ({"generation_config": "settings"}, {"max_length": 8, "do_sample": True}),
        (
            {"generation_config": "settings", "generation_max_length": 6},
            {"max_length": 6, "do_sample": True},
        ),
    ],
    ids=str,
)
def test_options_of_the_generation(
    given: dict[str, Any], asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "settings"
    folder.mkdir()
    (folder / "generation_config.json").write_text(json.dumps({"max_length": 8, "do_sample": True}))
    monkeypatch.chdir(tmp_path)
    model = Writer()
    made = program(tmp_path, seq2seq=True, parts={"model": model}, predict_with_generate=True, **given)
    made.predict(rows(3))
    assert model.asked == [asked]
