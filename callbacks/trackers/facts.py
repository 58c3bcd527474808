"""What some trackers ask of a run: its model's configuration, and whether its command may be told."""

from __future__ import annotations

import sys
from typing import Any


def model_configuration(model: Any) -> dict[str, Any]:
    """The model's configuration as plain data; empty where it has none."""
    to_dict = getattr(getattr(model, "config", None), "to_dict", None)
    return {} if to_dict is None else to_dict()


def holds_token(args: Any) -> bool:
    """Whether the access token ``hub_token`` is in the command that this process was started with.

    Where it is, a tracker must not record the command. ``sys.orig_argv`` is what the system knows of it, too.
    """
    token = args.hub_token
    return bool(token) and any(token in word for word in (*sys.orig_argv, *sys.argv))
