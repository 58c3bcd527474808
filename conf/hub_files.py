"""Where pretrained files lie: a local folder, or a copy of a hub's repository that is fetched when asked for.

The network is touched for a name alone that is no folder here and can be a hub's id; what is fetched are the
files that the caller names, never code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from conf.errors import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """How a repository is fetched; names and defaults are the reference's. No effect on a local folder,
    but for ``subfolder``, which lies in either.

    ``revision``: branch, tag or commit. ``cache_dir``: where copies are kept. ``force_download``: fetch again
    what is kept. ``local_files_only``: do with what is kept. ``token``: a token, True for the stored one.
    """

    revision: str | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False
    token: str | bool | None = None
    subfolder: str = ""

    def of_the_hub(self) -> dict[str, Any]:
        """These options alone, of a class that adds its own."""
        return {option.name: getattr(self, option.name) for option in fields(HubOptions)}


def folder_of(name: str | Path, patterns: Sequence[str], options: HubOptions) -> Path:
    """The folder with a model's files; those that fit ``patterns`` are fetched if ``name`` is a hub's id.

    ``CheckpointError`` for a name that is neither, and for a repository that cannot be had.
    """
    if Path(name).is_dir():
        return Path(name) / options.subfolder
    if HUB_ID.fullmatch(str(name)) is None:
        raise CheckpointError(f"{name}: there is no such folder, and it cannot be the id of a hub's model")
    return Path(_fetched(str(name), patterns, options)) / options.subfolder


def _fetched(name: str, patterns: Sequence[str], options: HubOptions) -> str:
    from huggingface_hub import snapshot_download

    place = f"{options.subfolder}/" if options.subfolder else ""
    try:
        return snapshot_download(
            name,
            revision=options.revision,
            cache_dir=options.cache_dir,
            force_download=options.force_download,
            local_files_only=options.local_files_only,
            token=options.token,
            allow_patterns=[f"{place}{pattern}" for pattern in patterns],
        )
    except Exception as error:  # of the network, the hub, or a name that is none
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{name}: is no folder here and cannot be had from the hub ({reason})"
        ) from error
