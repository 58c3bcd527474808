"""The access token of a hub: used, and never written or printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from tests.trainer.test_hub import LocalHub
from trainer.prepare import Preparation
from trainer.secrets import hidden, redacted

TOKEN = "hf_TheSecretOfThisTest"
GIVEN = f"hub.hub_token={TOKEN}"


def written(folder: Path) -> list[str]:
    """The files below a folder in which the token stands."""
    return [str(file) for file in folder.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]


def test_a_run_that_publishes_uses_the_token_and_keeps_it_to_itself(
    train: Any, tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **options: local)
    monkeypatch.setenv("STOCKPOT_CACHE", str(tmp_path / "cache"))
    done = train(*tiny, "hub.push_to_hub=true", GIVEN, "checkpoint.save_steps=1")
    assert done.status == 0, done.error
    assert {call["token"] for _, call in local.calls} == {TOKEN}
    assert local.commits[-1] == "End of training"
    resumed = train("resume=run/checkpoint-2", GIVEN, "training.max_steps=3")
    assert resumed.status == 0, resumed.error
    names = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert {"config.yaml", "plan.yaml", "metrics.jsonl", "README.md", "trainer_state.json"} <= names
    assert written(tmp_path) == []
    for finished in (done, resumed):
        assert TOKEN not in finished.out + finished.err
    local.failures = [OSError(f"no entry for {TOKEN}")]
    refused = train(*tiny, "hub.push_to_hub=true", GIVEN, "output_dir=other")
    assert refused.status == 2
    assert TOKEN not in str(refused.error)


def test_a_sweep_keeps_it_to_itself(
    train_in_process_of_its_own: Any, tiny: Sequence[str], tmp_path: Path
) -> None:
    """No job gets as far as the hub: the repository's name is none, which is said before the training."""
    words = ("hub={push_to_hub: true, hub_model_id: no//name}", GIVEN, "training.seed=1,2")
    done = train_in_process_of_its_own("--multirun", *tiny, *words, "output_dir=sweep")
    assert done.status == 0, done.err
    ledger = [json.loads(line) for line in (tmp_path / "sweep" / "sweep.jsonl").read_text().splitlines()]
    assert [line["status"] for line in ledger] == [2, 2]
    assert "hub.hub_token=<HUB_TOKEN>" in ledger[0]["overrides"]
    assert "hub.hub_token=<HUB_TOKEN>" in done.out
    assert done.err.count("'no//name' cannot be used") == 2
    assert written(tmp_path) == []
    assert TOKEN not in done.out + done.err


WRONG = [
    (GIVEN,),
    (f"hub.hub_token=[{TOKEN}]",),
    (f"hub={{hub_token: {TOKEN}}}",),
    (f"+hub.hub_token={TOKEN},other",),
    (f"hub.hub_token='{TOKEN}",),
    ("--multirun", f"hub.hub_token={TOKEN},other"),
    ("--multirun", f"hub.hub_token=interval({TOKEN},1)"),
    ("task=evaluate", "model.path=x", GIVEN),
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_no_error_names_it(words: Sequence[str], train: Any, tiny: Sequence[str]) -> None:
    done = train(*tiny, *words)
    assert done.status == 2
    assert TOKEN not in str(done.error) + done.out + done.err
    assert done.error.__cause__ is None
    assert done.error.__suppress_context__


@pytest.mark.parametrize("token", [TOKEN, f"[{TOKEN}]"])
def test_no_error_names_that_of_a_recipe(token: str, train: Any, tmp_path: Path) -> None:
    """Without ``push_to_hub`` it has no effect, and a list is no token."""
    (tmp_path / "recipe").mkdir()
    text = f"# @package _global_\nmodel: {{preset: tiny}}\nhub: {{hub_token: {token}}}\n"
    (tmp_path / "recipe" / "mine.yaml").write_text(text)
    for words in ((), ("--multirun", "training.seed=1,2")):
        done = train("--config-dir", str(tmp_path), "+recipe=mine", *words)
        assert done.status == 2
        assert "hub.hub_token: " in str(done.error)
        assert TOKEN not in str(done.error) + done.out + done.err


def test_the_composed_configuration_is_shown_without_it(train: Any, tiny: Sequence[str]) -> None:
    for given, shown in ((TOKEN, "<HUB_TOKEN>"), (f"'{TOKEN}'", "<HUB_TOKEN>"), ("null", "null")):
        done = train(*tiny, f"hub.hub_token={given}", "--cfg", "job")
        assert done.status == 0, done.error
        assert f"hub:\n  hub_token: {shown}\n" in done.out
        assert "output_dir: run\n" in done.out
        assert TOKEN not in done.out


def test_the_process_that_prepares_the_data_is_not_told(
    train: Any, tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def prepared(*args: Any, input: str, **options: Any) -> Any:
        told.append(input)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("subprocess.run", prepared)
    monkeypatch.setattr(Preparation, "open", lambda self: pytest.fail("as far as it goes", pytrace=False))
    monkeypatch.setenv("STOCKPOT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(pytest.fail.Exception, match="as far as it goes"):
        train(*tiny, "hub.push_to_hub=true", GIVEN)
    assert len(told) == 1
    assert TOKEN not in told[0]


def test_words() -> None:
    assert redacted("hub.hub_token=a") == "hub.hub_token=<HUB_TOKEN>"
    assert redacted("++hub.hub_token=a,b") == "++hub.hub_token=<HUB_TOKEN>"
    assert (
        redacted("hub={hub_token: a, push_to_hub: true}") == "hub={hub_token: <HUB_TOKEN>, push_to_hub: true}"
    )
    assert redacted("hub.hub_token=null") == "hub.hub_token=null"
    assert redacted("hub.hub_model_id=a") == "hub.hub_model_id=a"
    assert hidden("abc: no abc", ["hub.hub_token=abc"]) == "<HUB_TOKEN>: no <HUB_TOKEN>"
    assert hidden("null: abc", ["hub.hub_token=null", "training.seed=abc"]) == "null: abc"
