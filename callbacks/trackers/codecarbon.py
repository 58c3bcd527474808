"""CodeCarbon: the energy that a training took and what was emitted for it, in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from callbacks.trackers.tracker import Tracker, variable
from conf import logging
from conf.plugins import Package
from trainer.state import TrainerState

logger = logging.get_logger(__name__)


@dataclass(kw_only=True)
class CodeCarbonCallback(Tracker):
    """Measures the machine of the main process and adds a line to ``emissions.csv`` of the run folder.

    CodeCarbon asks a web service where the machine is, unless ``country_iso_code`` (three letters; else
    ``CODECARBON_COUNTRY_ISO_CODE``) says it: then nothing goes to the network. ``tracking_mode``: measure the
    whole ``machine`` or this ``process``. All else is set as CodeCarbon says, with ``CODECARBON_*`` or
    ``.codecarbon.config``. A resumed run has a line for each time. Reference: main_classes/callback.
    """

    package: ClassVar[Package] = Package("codecarbon", extra="codecarbon")

    country_iso_code: str | None = None
    tracking_mode: Literal["machine", "process"] | None = None

    def __post_init__(self) -> None:
        code = self.country_iso_code
        if code is not None and not (len(code) == 3 and code.isascii() and code.isalpha()):
            raise ValueError(f"country_iso_code: {code!r} was given; three letters, as in 'DEU', would do.")

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        from codecarbon import EmissionsTracker, OfflineEmissionsTracker

        given: dict[str, Any] = {"output_dir": args.output_dir}
        if self.tracking_mode is not None:  # it has no value that would mean CodeCarbon's own
            given["tracking_mode"] = self.tracking_mode
        country = self.country_iso_code or variable("CODECARBON_COUNTRY_ISO_CODE")
        self._tracker: Any = (
            OfflineEmissionsTracker(country_iso_code=country.upper(), **given)
            if country
            else EmissionsTracker(**given)
        )
        self._tracker.start()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Nothing: energy is measured, and not a matter of what is logged."""

    def finish(self) -> None:
        emissions = self._tracker.stop()
        if emissions is not None:
            logger.info("codecarbon: %.6f kg of CO2 equivalents were emitted.", emissions)
