"""Publishing, against a local stand-in for ``HfApi`` that keeps repositories as folders.

It answers calls that the real method would take, and no others; the queue of background jobs is the real one.
"""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.utils import validate_repo_id

from conf.errors import ConfigError
from trainer import hub
from trainer.config import HubSection
from trainer.hub import HubPublisher, published_files, publisher_of
from trainer.manifest import clean_leftovers, publish, verify

TOKEN = "hf_TheSecretOfThisTest"
TOP = ("config.json", "model.safetensors", "tokenizer.json", "additional_chat_templates/rag.jinja")
STATE = ("trainer_state.json", "training/config.yaml", "training/optimizer.safetensors")


class LocalHub(HfApi):
    """Repositories as folders; an upload waits for ``gate`` and raises the next of ``failures``."""

    def __init__(self, root: Path):
        super().__init__()
        self.root = root
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.commits: list[str] = []
        self.failures: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()

    def called(self, method: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        bound = inspect.signature(getattr(HfApi, method)).bind(self, *args, **kwargs).arguments
        del bound["self"]
        self.calls.append((method, bound))
        return bound

    def create_repo(self, *args: Any, **kwargs: Any) -> Any:
        call = self.called("create_repo", *args, **kwargs)
        validate_repo_id(call["repo_id"])
        if self.failures:
            raise self.failures.pop(0)
        name = call["repo_id"] if "/" in call["repo_id"] else f"me/{call['repo_id']}"
        (self.root / name).mkdir(parents=True, exist_ok=call["exist_ok"])
        return SimpleNamespace(repo_id=name)

    def create_branch(self, *args: Any, **kwargs: Any) -> None:
        self.called("create_branch", *args, **kwargs)

    def upload_folder(self, *args: Any, **kwargs: Any) -> Any:
        call = self.called("upload_folder", *args, **kwargs)
        assert self.gate.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        repository, source = self.root / call["repo_id"], Path(call["folder_path"])
        for name in content(repository):
            if call["delete_patterns"] is not None and fnmatch(name, call["delete_patterns"]):
                (repository / name).unlink()
        shutil.copytree(source, repository, dirs_exist_ok=True)
        self.commits.append(call["commit_message"])
        address = f"https://huggingface.co/{call['repo_id']}/commit/{len(self.commits)}"
        return CommitInfo(
            commit_url=address,
            commit_message=self.commits[-1],
            commit_description="",
            oid=str(len(self.commits)),
        )


def content(folder: Path) -> list[str]:
    """The files of a folder by relative path."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def checkpoint(run: Path, step: int, *more: str) -> Path:
    """A published checkpoint with the files that one has."""
    path = run / f"checkpoint-{step}"
    with publish(path, about={"step": step}) as folder:
        for name in (*TOP, *STATE, *more):
            folder.write_text(name, f"{name} of step {step}")
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run folder with everything that must stay here."""
    folder = tmp_path / "my-run"
    folder.mkdir()
    for name in ("config.yaml", "plan.yaml", "metrics.jsonl", "all_results.json", "eval_results.json"):
        (folder / name).write_text("not to be published")
    for name in ("predictions.jsonl", "train.log", "trainer_state.json", ".env"):
        (folder / name).write_text("not to be published")
    return folder


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LocalHub]:
    local = LocalHub(tmp_path / "hub")
    yield local
    local.gate.set()


def publisher(run_dir: Path, api: LocalHub, **options: Any) -> HubPublisher:
    made = HubPublisher(**{"output_dir": run_dir, "hub_token": TOKEN, "api": api} | options)
    made.create_repo()
    return made


def test_the_repository_is_made_as_asked(run_dir: Path, api: LocalHub) -> None:
    made = publisher(run_dir, api, hub_private_repo=True, hub_revision="trial")
    wanted = {"repo_id": "my-run", "token": TOKEN, "private": True, "exist_ok": True}
    branch = {"repo_id": "me/my-run", "branch": "trial", "token": TOKEN, "exist_ok": True}
    assert api.calls == [("create_repo", wanted), ("create_branch", branch)]
    assert made.repo_id == "me/my-run"
    api.calls.clear()
    assert (
        publisher(run_dir, api, hub_model_id="team/model", hub_revision="refs/pr/1").repo_id == "team/model"
    )
    assert [name for name, _ in api.calls] == ["create_repo"], "a pull request is no branch to be made"


def test_a_repository_that_cannot_be_made_is_an_error_before_training(run_dir: Path, api: LocalHub) -> None:
    api.failures = [OSError(f"401 Unauthorized\nfor {TOKEN}")]
    with pytest.raises(ConfigError) as error:
        publisher(run_dir, api, hub_model_id="team/model")
    assert str(error.value) == (
        "hub.hub_model_id: the repository 'team/model' cannot be used (401 Unauthorized for ***); log in by "
        "`hf auth login` or give hub.hub_token, or leave hub.push_to_hub off."
    )
    with pytest.raises(ConfigError, match="'no//name' cannot be used"):
        publisher(run_dir, api, hub_model_id="no//name")


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_what_is_published_of_checkpoints(
    run_dir: Path, api: LocalHub, strategy: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = publisher(run_dir, api, hub_strategy=strategy)
    steps = (5, 10)
    for step in steps:
        begun = made.push_checkpoint(checkpoint(run_dir, step), step)
        assert begun == (strategy != "end")
        made.finish()
    whole = [*TOP, *STATE, "MANIFEST.json"]
    folders = {"checkpoint": ["last-checkpoint"], "all_checkpoints": ["checkpoint-5", "checkpoint-10"]}
    kept = folders.get(strategy, [])
    top = [] if strategy == "end" else list(TOP)
    repository = api.root / "me/my-run"
    assert content(repository) == sorted([*top, *(f"{folder}/{name}" for folder in kept for name in whole)])
    for folder in kept:
        verify(repository / folder)  # it can be resumed from
    if kept:
        assert verify(repository / kept[-1]).about["step"] == 10
    if top:
        assert (repository / "model.safetensors").read_text() == "model.safetensors of step 10"
    assert api.commits == [f"Training in progress, step {step}" for step in steps if top]
    assert caplog.text == ""


def test_the_card_of_the_run_goes_along(run_dir: Path, api: LocalHub) -> None:
    made = publisher(run_dir, api)
    (run_dir / "README.md").write_text("a card")
    made.push_checkpoint(checkpoint(run_dir, 5), 5)
    made.finish()
    assert content(api.root / "me/my-run") == sorted([*TOP, "README.md"])


def test_the_last_checkpoint_is_replaced_as_a_whole(run_dir: Path, api: LocalHub) -> None:
    made = publisher(run_dir, api, hub_strategy="checkpoint")
    for step, more in ((5, ("training/rng-1.safetensors",)), (10, ())):
        made.push_checkpoint(checkpoint(run_dir, step, *more), step)
        made.finish()
        assert ("last-checkpoint/training/rng-1.safetensors" in content(api.root / "me/my-run")) == bool(more)


@pytest.mark.parametrize("always", [False, True])
def test_a_push_waits_for_none_and_is_left_out_while_one_runs(
    run_dir: Path, api: LocalHub, always: bool
) -> None:
    made = publisher(run_dir, api, hub_always_push=always)
    api.gate.clear()
    assert made.push_checkpoint(checkpoint(run_dir, 5), 5)
    assert made.push_checkpoint(checkpoint(run_dir, 10), 10) == always
    assert api.commits == []
    api.gate.set()
    made.finish()
    assert made.push_checkpoint(checkpoint(run_dir, 15), 15)
    made.finish()
    steps = (5, 10, 15) if always else (5, 15)
    assert api.commits == [f"Training in progress, step {step}" for step in steps]


def test_a_checkpoint_may_be_deleted_while_it_is_published(run_dir: Path, api: LocalHub) -> None:
    made = publisher(run_dir, api, hub_strategy="checkpoint")
    api.gate.clear()
    path = checkpoint(run_dir, 5)
    weights = path / "model.safetensors"
    made.push_checkpoint(path, 5)
    assert weights.stat().st_nlink == 3, "hard links, no copies"
    shutil.rmtree(path)
    api.gate.set()
    made.finish()
    verify(api.root / "me/my-run/last-checkpoint")
    assert not list(run_dir.glob(".staging-*"))


def test_without_hard_links_there_are_copies(
    run_dir: Path, api: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    made, path = publisher(run_dir, api), checkpoint(run_dir, 5)
    monkeypatch.setattr(os, "link", refuse)
    made.push_checkpoint(path, 5)
    made.finish()
    assert content(api.root / "me/my-run") == sorted(TOP)


def test_a_push_that_fails_is_said_and_stops_nothing(
    run_dir: Path, api: LocalHub, caplog: pytest.LogCaptureFixture
) -> None:
    made = publisher(run_dir, api)
    api.failures = [OSError(f"502 Bad Gateway\nwith {TOKEN}")]
    made.push_checkpoint(checkpoint(run_dir, 5), 5)
    made.finish()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "'Training in progress, step 5' was not published to me/my-run: 502 Bad Gateway with ***"
    ]
    assert made.push_checkpoint(checkpoint(run_dir, 10), 10)
    made.finish()
    assert api.commits == ["Training in progress, step 10"]
    assert TOKEN not in caplog.text
    assert not list(run_dir.glob(".staging-*"))


def test_a_full_disk_is_said_and_stops_nothing(
    run_dir: Path, api: LocalHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    made, path = publisher(run_dir, api), checkpoint(run_dir, 5)
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    made.push_checkpoint(path, 5)
    made.finish()
    assert "No space left on device" in caplog.text
    assert (api.commits, list(run_dir.glob(".staging-*"))) == ([], [])


def finished_run(run_dir: Path) -> None:
    for name in ("config.json", "README.md", *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))):
        (run_dir / name).write_text(f"{name} at the end")
    (run_dir / "model.safetensors.index.json").write_text("{}")


def test_the_final_model_comes_after_everything_else(run_dir: Path, api: LocalHub) -> None:
    made = publisher(run_dir, api, hub_strategy="all_checkpoints", hub_revision="trial")
    api.gate.clear()
    made.push_checkpoint(checkpoint(run_dir, 5), 5)
    finished_run(run_dir)
    threading.Timer(0.05, api.gate.set).start()
    commit = made.push_final("The end")
    assert isinstance(commit, CommitInfo)
    assert (commit.oid, api.commits) == ("2", ["Training in progress, step 5", "The end"])
    files = content(api.root / "me/my-run")
    assert {"README.md", "config.json", "model.safetensors.index.json", "checkpoint-5/MANIFEST.json"} < set(
        files
    )
    assert not [name for name in files if "not to be" in (api.root / "me/my-run" / name).read_text()]
    assert {call["revision"] for name, call in api.calls if name == "upload_folder"} == {"trial"}


def test_the_final_push_may_run_on_and_go_elsewhere(run_dir: Path, api: LocalHub) -> None:
    made = publisher(run_dir, api, hub_strategy="end", hub_revision="trial")
    finished_run(run_dir)
    api.gate.clear()
    future = made.push_final(blocking=False, revision="other")
    assert future is not None
    assert not future.done()  # type: ignore[union-attr]
    api.gate.set()
    made.finish()
    assert api.commits == ["End of training"]
    assert api.calls[-1][1]["revision"] == "other"
    assert api.calls[-1][1]["token"] == TOKEN


def test_a_final_push_that_fails(run_dir: Path, api: LocalHub, caplog: pytest.LogCaptureFixture) -> None:
    made = publisher(run_dir, api)
    finished_run(run_dir)
    api.failures = [TimeoutError()]
    assert made.push_final() is None
    assert "'End of training' was not published to me/my-run: TimeoutError" in caplog.text


def test_what_a_dead_process_left_is_removed_by_the_next_start(
    run_dir: Path, api: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = publisher(run_dir, api)
    monkeypatch.setattr(api, "run_as_future", lambda job: SimpleNamespace(done=lambda: False))
    made.push_checkpoint(checkpoint(run_dir, 5), 5)
    assert [path.name.startswith(".staging-push-") for path in clean_leftovers(run_dir)] == [True]


def test_the_configuration_asks_for_it(run_dir: Path, api: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **options: api)
    assert publisher_of(HubSection(), run_dir) is None
    assert api.calls == []
    options = HubSection(
        push_to_hub=True,
        hub_model_id="team/model",
        hub_strategy="checkpoint",
        hub_token=TOKEN,
        hub_private_repo=False,
        hub_always_push=True,
        hub_revision="trial",
    )
    made = publisher_of(options, run_dir)
    assert made is not None
    assert (made.repo_id, made.hub_strategy, made.hub_always_push) == ("team/model", "checkpoint", True)
    assert (made.hub_private_repo, made.hub_revision, made.output_dir) == (False, "trial", run_dir)
    assert {call["token"] for _, call in api.calls} == {TOKEN}
    assert TOKEN not in repr(made)


def test_every_file_of_a_real_model_is_published(train: Any, tiny: Sequence[str]) -> None:
    finished = train(*tiny)
    assert finished.status == 0, finished.err
    saved = finished.folder / "checkpoint-2"
    top = {path.name for path in saved.iterdir() if path.is_file()}
    assert published_files(saved).keys() == top - {"MANIFEST.json", "trainer_state.json"}
    published = published_files(finished.folder).keys()
    assert published == published_files(saved).keys() | {"README.md"}
    stays = {path.name for path in finished.folder.iterdir() if path.is_file()} - published
    assert stays == {
        "config.yaml",
        "plan.yaml",
        "metrics.jsonl",
        "all_results.json",
        "train_results.json",
        "report.html",
    }
    assert hub.LAST_CHECKPOINT not in published
