"""What models of images and of sound return.

Shapes: B batch, T frames, D hidden, C channels, height and width of an image's grid.
Source: reference page main_classes/output.
"""

from __future__ import annotations

from torch import Tensor

from models.outputs import ModelOutput, Tensors, output_type


@output_type
class BaseModelOutputWithNoAttention(ModelOutput):
    """A convolutional backbone's hidden states (B, C, height, width)."""

    last_hidden_state: Tensor
    hidden_states: Tensors | None = None


@output_type
class BaseModelOutputWithPoolingAndNoAttention(ModelOutput):
    """A convolutional backbone's, with one vector (B, D) for each image."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: Tensors | None = None


@output_type
class ImageClassifierOutput(ModelOutput):
    """Scores of each image (B, num_labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class ImageClassifierOutputWithNoAttention(ModelOutput):
    """Scores of each image (B, num_labels), of a convolutional model."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None


@output_type
class SemanticSegmenterOutput(ModelOutput):
    """Scores (B, num_labels, height, width); the size may be another than the image's."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class DepthEstimatorOutput(ModelOutput):
    """The depth (B, height, width) of each pixel."""

    loss: Tensor | None = None
    predicted_depth: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class Wav2Vec2BaseModelOutput(ModelOutput):
    """Hidden states (B, T, D), and what the convolutions before them gave."""

    last_hidden_state: Tensor
    extract_features: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class XVectorOutput(ModelOutput):
    """Scores (B, num_labels), and a vector (B, width) of each recording."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    embeddings: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
