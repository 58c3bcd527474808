"""``python -m trainer`` and ``accelerate launch -m trainer``: the same as the command ``train.py``."""

import sys
from pathlib import Path

# Python puts the current folder first, whose own `models` or `conf` would shadow ours.
_HERE = Path(__file__).resolve().parent.parent
sys.path[:] = [str(_HERE), *(p for p in sys.path if p not in ("", str(Path.cwd())))]

from trainer.cli import main  # noqa: E402

main()
