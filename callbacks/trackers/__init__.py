"""Experiment trackers: each sends what a run logs to a service or a local store of its kind.

``logging.report_to`` names them; a section of ``callbacks`` gives one options of its own.
"""

from __future__ import annotations

TRACKERS = {
    "azure_ml": "callbacks.trackers.azure_ml:AzureMLCallback",
    "clearml": "callbacks.trackers.clearml:ClearMLCallback",
    "codecarbon": "callbacks.trackers.codecarbon:CodeCarbonCallback",
    "comet_ml": "callbacks.trackers.comet_ml:CometCallback",
    "dagshub": "callbacks.trackers.dagshub:DagsHubCallback",
    "dvclive": "callbacks.trackers.dvclive:DVCLiveCallback",
    "flyte": "callbacks.trackers.flyte:FlyteCallback",
    "mlflow": "callbacks.trackers.mlflow:MLflowCallback",
    "neptune": "callbacks.trackers.neptune:NeptuneCallback",
    "swanlab": "callbacks.trackers.swanlab:SwanLabCallback",
    "tensorboard": "callbacks.trackers.tensorboard:TensorBoardCallback",
    "trackio": "callbacks.trackers.trackio:TrackioCallback",
    "wandb": "callbacks.trackers.wandb:WandbCallback",
}
