"""The documented Auto classes: one name for a task, whatever the family.

All forty of the reference page ``model_doc/auto`` are here; those whose task no family here can do say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conf.errors import ConfigError
from models import CATALOG
from models.auto import Composition, build_model
from models.config import AutoConfig, ModelConfig
from models.loading import LoadOptions, load_pretrained
from models.tasks import family_table

Registered = dict[type[ModelConfig], Callable[..., Any]]


@dataclass(frozen=True, kw_only=True)
class Factory(Composition):
    """A documented class: the models of one task, of the family that a configuration or folder names.

    ``does`` says in words what the task is. ``instead``: the task that stands in for it in families without
    it. ``among``: only families with this other task count. Programs add models of their own by
    ``register``.
    """

    name: str
    does: str
    instead: str | None = None
    among: str | None = None
    registered: Registered = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, config: ModelConfig, **options: Any) -> Any:
        """A model with fresh weights, options as in ``build_model``."""
        if (model := self.registered.get(type(config))) is not None:
            return model(config, **options)
        return build_model(config, self._task_of(config.model_type), **options)

    def __instancecheck__(self, model: object) -> bool:
        kinds = tuple(kind for kind in self.registered.values() if isinstance(kind, type))
        if isinstance(model, kinds):
            return True
        tasks = dict.fromkeys([self.task, self.instead or self.task])
        return any(isinstance(model, Composition(task=task)) for task in tasks)

    def from_pretrained(self, folder: str | Path | None, **options: Any) -> Any:
        """The model of a folder, or of a hub's repository, in evaluation mode; as ``Composition`` does it.

        A registered model is loaded by its own ``from_pretrained``.
        """
        if self.registered:
            read = LoadOptions(**{key: value for key, value in options.items() if key in _LOADING})
            config = read.config
            if not isinstance(config, ModelConfig):
                config = AutoConfig.from_pretrained(config or folder, **read.of_the_hub())
            if (model := self.registered.get(type(config))) is not None:
                return model.from_pretrained(folder, **options)  # type: ignore[attr-defined]
        return load_pretrained(self, folder, options)

    def register(self, config_class: type[ModelConfig], model: Any, exist_ok: bool = False) -> None:
        """Let ``model(config)`` make the models of a configuration's class, for this process.

        ``model`` is a class, or anything else that can be called with a configuration; to be loaded it needs
        a ``from_pretrained(folder, **options)``. Make the configuration known by ``AutoConfig.register``
        first. ``ConfigError`` for a configuration that is served already, unless ``exist_ok``, and for a
        model whose ``config_class`` is another.
        """
        own = getattr(model, "config_class", config_class)
        if own is not config_class:
            raise ConfigError(
                f"{self.name}.register: the model's config_class is {own.__name__}, "
                f"not {config_class.__name__}"
            )
        known = CATALOG.get(config_class.model_type)
        if not exist_ok and (config_class in self.registered or self._is_served(config_class, known)):
            raise ConfigError(
                f"{self.name}.register: {config_class.__name__} has a model already; "
                "exist_ok=True replaces it"
            )
        self.registered[config_class] = model

    def _is_served(self, config_class: type[ModelConfig], entry: Any) -> bool:
        """Whether a family of the catalog has this configuration and does the task."""
        if (
            not isinstance(entry, tuple)
            or entry[0] != f"{config_class.__module__}:{config_class.__qualname__}"
        ):
            return False
        return not {self.task, self.instead or self.task}.isdisjoint(
            family_table(config_class.model_type).TASKS
        )

    def _task_of(self, model_type: str) -> str | None:
        """The task to build; ``ConfigError`` if no family, or not this one, can do it."""
        families = [name for name, entry in CATALOG.items() if not isinstance(entry, str)]
        tasks = family_table(model_type).TASKS if model_type in families else {}
        if self.among not in (None, *tasks):
            raise ConfigError(f"{self.name}: a {model_type} is none of the families that do {self.does}")
        if self.task not in tasks and self.instead is not None and self.instead in tasks:
            return self.instead
        if self.task not in tasks and not any(self.task in family_table(name).TASKS for name in families):
            raise ConfigError(f"{self.name}: no architecture here does {self.does}")
        return self.task  # where the family lacks it, whoever builds says what it has


_LOADING = LoadOptions.__dataclass_fields__.keys()


def _auto(ending: str, task: str | None, does: str, **more: Any) -> Factory:
    return Factory(name=f"AutoModel{ending}", task=task, does=does, **more)


# Of any family.
AutoModel = _auto("", None, "hidden states")
AutoModelForPreTraining = _auto("ForPreTraining", "pretraining", "pretraining", instead="masked_lm")

# Of text.
AutoModelForCausalLM = _auto("ForCausalLM", "causal_lm", "causal language modeling")
AutoModelForMaskedLM = _auto("ForMaskedLM", "masked_lm", "masked language modeling")
AutoModelForSeq2SeqLM = _auto("ForSeq2SeqLM", "seq2seq_lm", "sequence-to-sequence language modeling")
AutoModelForSequenceClassification = _auto(
    "ForSequenceClassification", "sequence_classification", "sequence classification"
)
AutoModelForMultipleChoice = _auto("ForMultipleChoice", "multiple_choice", "multiple choice")
AutoModelForNextSentencePrediction = _auto(
    "ForNextSentencePrediction", "next_sentence", "next sentence prediction"
)
AutoModelForTokenClassification = _auto(
    "ForTokenClassification", "token_classification", "token classification"
)
AutoModelForQuestionAnswering = _auto("ForQuestionAnswering", "question_answering", "question answering")
AutoModelForTextEncoding = _auto("ForTextEncoding", None, "text encoding", among="masked_lm")

# Of images and video.
AutoModelForDepthEstimation = _auto("ForDepthEstimation", "depth", "depth estimation")
AutoModelForImageClassification = _auto(
    "ForImageClassification", "image_classification", "image classification"
)
AutoModelForVideoClassification = _auto(
    "ForVideoClassification", "video_classification", "video classification"
)
AutoModelForMaskedImageModeling = _auto("ForMaskedImageModeling", "masked_image", "masked image modeling")
AutoModelForObjectDetection = _auto("ForObjectDetection", "object_detection", "object detection")
AutoModelForImageSegmentation = _auto("ForImageSegmentation", "image_segmentation", "image segmentation")
AutoModelForSemanticSegmentation = _auto(
    "ForSemanticSegmentation", "semantic_segmentation", "semantic segmentation"
)
AutoModelForInstanceSegmentation = _auto(
    "ForInstanceSegmentation", "instance_segmentation", "instance segmentation"
)
AutoModelForUniversalSegmentation = _auto(
    "ForUniversalSegmentation", "universal_segmentation", "universal image segmentation"
)
AutoModelForZeroShotImageClassification = _auto(
    "ForZeroShotImageClassification", "zero_shot_image_classification", "zero-shot image classification"
)
AutoModelForZeroShotObjectDetection = _auto(
    "ForZeroShotObjectDetection", "zero_shot_object_detection", "zero-shot object detection"
)
AutoModelForMaskGeneration = _auto("ForMaskGeneration", "mask_generation", "mask generation")
AutoModelForKeypointDetection = _auto("ForKeypointDetection", "keypoint_detection", "keypoint detection")
AutoModelForKeypointMatching = _auto("ForKeypointMatching", "keypoint_matching", "keypoint matching")
AutoModelForImageToImage = _auto("ForImageToImage", "image_to_image", "image-to-image translation")

# Of sound.
AutoModelForAudioClassification = _auto(
    "ForAudioClassification", "audio_classification", "audio classification"
)
AutoModelForAudioFrameClassification = _auto(
    "ForAudioFrameClassification", "audio_frame_classification", "audio frame classification"
)
AutoModelForCTC = _auto("ForCTC", "ctc", "connectionist temporal classification")
AutoModelForSpeechSeq2Seq = _auto(
    "ForSpeechSeq2Seq", "speech_seq2seq", "sequence-to-sequence speech recognition"
)
AutoModelForAudioXVector = _auto("ForAudioXVector", "xvector", "audio retrieval by x-vectors")
AutoModelForAudioTokenization = _auto("ForAudioTokenization", "audio_tokenization", "audio tokenization")
AutoModelForTextToSpectrogram = _auto("ForTextToSpectrogram", "text_to_spectrogram", "text to spectrogram")
AutoModelForTextToWaveform = _auto("ForTextToWaveform", "text_to_waveform", "text to waveform")

# Of several kinds of inputs, and of time series.
AutoModelForMultimodalLM = _auto("ForMultimodalLM", "multimodal_lm", "multimodal generation")
AutoModelForTableQuestionAnswering = _auto(
    "ForTableQuestionAnswering", "table_question_answering", "table question answering"
)
AutoModelForDocumentQuestionAnswering = _auto(
    "ForDocumentQuestionAnswering", "document_question_answering", "document question answering"
)
AutoModelForVisualQuestionAnswering = _auto(
    "ForVisualQuestionAnswering", "visual_question_answering", "visual question answering"
)
AutoModelForImageTextToText = _auto(
    "ForImageTextToText", "image_text_to_text", "image-text-to-text generation"
)
AutoModelForTimeSeriesPrediction = _auto(
    "ForTimeSeriesPrediction", "time_series_prediction", "time-series prediction"
)
