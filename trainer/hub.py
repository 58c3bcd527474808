"""Publishing a run to a model hub, through ``huggingface_hub``; never on unless asked.

What goes there, by ``hub_strategy`` (reference page main_classes/trainer):

==================  ==================================================================================
``end``             the final model
``every_save``      the model of each checkpoint, at the top of the repository
``checkpoint``      that, and the checkpoint itself as ``last-checkpoint/``, from which a run can go on
``all_checkpoints`` that, and each checkpoint under its own name
==================  ==================================================================================

Of the run folder only the model's own files are published: no metrics, plans, logs or predictions.
Uploads run in the background on hard links of their own, so that a checkpoint may be deleted meanwhile; what
a process that died left of those is removed by the next start. A push that fails is said and stops nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conf.errors import ConfigError
from conf.logging import get_logger
from trainer.manifest import STAGING

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

    from trainer.config import HubSection

LAST_CHECKPOINT = "last-checkpoint"
# The files of a model and its processor at the top of a folder; whatever else lies there is not published.
MODEL_FILES = (
    "README.md",
    "LICENSE*",
    "config.json",
    "generation_config.json",
    "*processor_config.json",
    "model*.safetensors",
    "model*.safetensors.index.json",
    "adapter_config.json",
    "adapter_model*.safetensors",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "chat_template.json",
)

logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Push:
    title: str
    future: Future[CommitInfo]


class HubPublisher:
    """The repository of one run; the main process has one. Options are ``hub.*`` of the configuration.

    ``hub_model_id`` is ``name`` or ``owner/name``; the default is the run folder's name. The token is that of
    ``hf auth login`` unless ``hub_token`` is given, and is never shown. ``api`` stands in for ``HfApi``.
    """

    def __init__(
        self,
        *,
        output_dir: Path,
        hub_model_id: str | None = None,
        hub_strategy: str = "every_save",
        hub_token: str | None = None,
        hub_private_repo: bool | None = None,
        hub_always_push: bool = False,
        hub_revision: str | None = None,
        api: HfApi | None = None,
    ) -> None:
        if api is None:
            from huggingface_hub import HfApi

            api = HfApi(library_name="stockpot")
        self.output_dir, self.repo_id = output_dir, hub_model_id or output_dir.absolute().name
        self.hub_strategy, self.hub_always_push = hub_strategy, hub_always_push
        self.hub_private_repo, self.hub_revision = hub_private_repo, hub_revision
        self._token, self._api = hub_token, api
        self._pushes: list[_Push] = []

    def create_repo(self) -> str:
        """Make the repository, and the branch of ``hub_revision``, unless they exist; returns its full name.

        To be called before training: ``ConfigError`` where it cannot be made, as without a login.
        """
        try:
            url = self._api.create_repo(
                self.repo_id, token=self._token, private=self.hub_private_repo, exist_ok=True
            )
            self.repo_id = url.repo_id
            if self.hub_revision is not None and not self.hub_revision.startswith("refs/"):
                self._api.create_branch(
                    self.repo_id, branch=self.hub_revision, token=self._token, exist_ok=True
                )
        except Exception as error:  # of the network, the hub, or a name that is none
            raise ConfigError(
                f"hub.hub_model_id: the repository {self.repo_id!r} cannot be used ({self._reason(error)}); "
                "log in by `hf auth login` or give hub.hub_token, or leave hub.push_to_hub off."
            ) from None
        return self.repo_id

    def push_checkpoint(self, path: Path, step: int) -> bool:
        """Publish what ``hub_strategy`` wants of the checkpoint ``path``, in the background.

        Returns whether a push was begun: none is while the last one runs, unless ``hub_always_push``.
        """
        if self.hub_strategy == "end":
            return False
        self._report(wait=False)
        if self._pushes and not self.hub_always_push:
            logger.info("step %d is not published: the last push still runs.", step)
            return False
        files = published_files(path)
        if (card := self.output_dir / "README.md").is_file():
            files.setdefault(card.name, card)
        folder = {"checkpoint": LAST_CHECKPOINT, "all_checkpoints": path.name}.get(self.hub_strategy)
        if folder is not None:
            whole = (file for file in sorted(path.rglob("*")) if file.is_file())
            files |= {f"{folder}/{file.relative_to(path).as_posix()}": file for file in whole}
        # Shards and ranks may be fewer than they were in the checkpoint that this one replaces.
        stale = f"{LAST_CHECKPOINT}/*" if folder == LAST_CHECKPOINT else None
        title = f"Training in progress, step {step}"
        self._begin(files, title, revision=self.hub_revision, delete_patterns=stale)
        return True

    def push_final(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        revision: str | None = None,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Publish the model at the top of the run folder, after all earlier pushes.

        Returns the commit, or unless ``blocking`` its future; None where the push failed, which is said.
        """
        self.finish()
        files = published_files(self.output_dir)
        future = self._begin(files, commit_message, revision=revision or self.hub_revision)
        if not blocking:
            return future
        self.finish()
        return None if future.exception() else future.result()

    def finish(self) -> None:
        """Wait for the pushes under way, and say which failed."""
        if self._pushes:
            logger.info("waiting for what is still being published to %s.", self.repo_id)
        self._report(wait=True)

    def _begin(
        self,
        files: Mapping[str, Path],
        title: str,
        *,
        revision: str | None,
        delete_patterns: str | None = None,
    ) -> Future[CommitInfo]:
        staged = Path(tempfile.mkdtemp(prefix=f"{STAGING}push-", dir=self.output_dir))

        def upload() -> CommitInfo:
            try:
                return self._api.upload_folder(
                    repo_id=self.repo_id,
                    folder_path=staged,
                    commit_message=title,
                    token=self._token,
                    revision=revision,
                    delete_patterns=delete_patterns,
                )
            finally:
                shutil.rmtree(staged, ignore_errors=True)

        future: Future[CommitInfo]
        try:
            _link(files, staged)
            future = self._api.run_as_future(upload)  # one after the other, in this order
        except OSError as error:  # the disk is full
            shutil.rmtree(staged, ignore_errors=True)
            future = Future()
            future.set_exception(error)
        self._pushes.append(_Push(title=title, future=future))
        return future

    def _report(self, *, wait: bool) -> None:
        """Forget the pushes that ended, and say which of them failed."""
        ended = [push for push in self._pushes if wait or push.future.done()]
        self._pushes = [push for push in self._pushes if push not in ended]
        for push in ended:
            if error := push.future.exception():
                logger.warning(
                    "%r was not published to %s: %s", push.title, self.repo_id, self._reason(error)
                )

    def _reason(self, error: BaseException) -> str:
        """An error in one line, without the token."""
        text = " ".join(str(error).split()) or type(error).__name__
        return text.replace(self._token, "***") if self._token else text


def publisher_of(options: HubSection, output_dir: Path) -> HubPublisher | None:
    """The publisher that a configuration asks for, its repository made; None unless ``push_to_hub``.

    The main process calls it, before training. Raises ``ConfigError``.
    """
    if not options.push_to_hub:
        return None
    publisher = HubPublisher(
        output_dir=output_dir,
        hub_model_id=options.hub_model_id,
        hub_strategy=options.hub_strategy,
        hub_token=options.hub_token,
        hub_private_repo=options.hub_private_repo,
        hub_always_push=options.hub_always_push,
        hub_revision=options.hub_revision,
    )
    publisher.create_repo()
    return publisher


def published_files(folder: Path) -> dict[str, Path]:
    """The files of the model in ``folder``, by their names in it."""
    found = (file for pattern in MODEL_FILES for file in sorted(folder.glob(pattern)) if file.is_file())
    return {file.relative_to(folder).as_posix(): file for file in found}


def _link(files: Mapping[str, Path], folder: Path) -> None:
    """Hard links to ``files`` under their names, or copies where the file system has no such links."""
    for name, file in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, target)
        except OSError:
            shutil.copyfile(file, target)
