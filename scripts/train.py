"""The command ``train.py`` from a checkout: ``accelerate launch scripts/train.py +recipe=...``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from trainer.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
