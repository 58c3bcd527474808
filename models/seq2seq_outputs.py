"""What encoder-decoders return: the decoder's values and the encoder's, each under its own name.

Shapes: B batch, T tokens of the decoder, D hidden, V vocabulary, N time steps, F features.
``past_key_values`` holds keys and values of both attentions. Source: reference page main_classes/output.
"""

from __future__ import annotations

from torch import Tensor

from models.layers.cache import EncoderDecoderCache
from models.outputs import ModelOutput, Tensors, output_type


@output_type
class Seq2SeqModelOutput(ModelOutput):
    """The decoder's hidden states (B, T, D)."""

    last_hidden_state: Tensor
    past_key_values: EncoderDecoderCache | None = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@output_type
class Seq2SeqLMOutput(ModelOutput):
    """Next-token scores (B, T, V)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: EncoderDecoderCache | None = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@output_type
class Seq2SeqSequenceClassifierOutput(ModelOutput):
    """Scores of each sequence (B, num_labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: EncoderDecoderCache | None = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@output_type
class Seq2SeqQuestionAnsweringModelOutput(ModelOutput):
    """Scores (B, T) of where the answer starts and ends."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    past_key_values: EncoderDecoderCache | None = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@output_type
class Seq2SeqSpectrogramOutput(ModelOutput):
    """A spectrogram (B, N, bins)."""

    loss: Tensor | None = None
    spectrogram: Tensor | None = None
    past_key_values: EncoderDecoderCache | None = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@output_type
class Seq2SeqTSModelOutput(ModelOutput):
    """Of time series: hidden states, and how the series were scaled: ``loc`` and ``scale`` (B, F)."""

    last_hidden_state: Tensor
    past_key_values: EncoderDecoderCache | None = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None
    loc: Tensor | None = None
    scale: Tensor | None = None
    static_features: Tensor | None = None


@output_type
class Seq2SeqTSPredictionOutput(ModelOutput):
    """Of time series: the parameters of the distribution of what comes, and how it was scaled."""

    loss: Tensor | None = None
    params: Tensors | None = None
    past_key_values: EncoderDecoderCache | None = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None
    loc: Tensor | None = None
    scale: Tensor | None = None
    static_features: Tensor | None = None


@output_type
class SampleTSPredictionOutput(ModelOutput):
    """Drawn continuations of time series (B, samples, N) or (B, samples, N, F)."""

    sequences: Tensor
