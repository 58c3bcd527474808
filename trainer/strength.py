"""How strongly an option was given: what is typed on the command line wins over the recipe."""

from __future__ import annotations

from collections.abc import Mapping

STRENGTH = {"recipe": 1, "command line": 2, "python": 2}
TYPED = STRENGTH["command line"]


def strength(path: str, given: Mapping[str, str]) -> int:
    """0 for a default, 1 given in the recipe, 2 on the command line; of a section the strongest."""
    inside = [where for key, where in given.items() if key == path or key.startswith(path + ".")]
    return max((STRENGTH[where] for where in inside), default=0)
