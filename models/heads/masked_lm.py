"""The vocabulary heads of encoders: hidden states are transformed, then scored against every word.

Source: BERT (Devlin et al., 2019), section 3.1 and its published code. Shapes: B batch, T tokens, D hidden, E
embedding width, V vocabulary.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig
from models.heads.causal_lm import NextTokenHead, kept
from models.heads.chunked import linear_log_probs, linear_nll, supervised
from models.heads.head import Head, ScoringHead
from models.layers.mlp import ACTIVATIONS
from models.outputs import CausalLMOutputWithCrossAttentions, MaskedLMOutput, ModelOutput


class Transform(nn.Module):
    """A linear layer to the width of the word embeddings, an activation and a norm."""

    def __init__(self, hidden_size: int, width: int, activation: str, eps: float):
        super().__init__()
        self.dense = nn.Linear(hidden_size, width)
        self.activation = ACTIVATIONS[activation]
        self.LayerNorm = nn.LayerNorm(width, eps=eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., E)"""
        return self.LayerNorm(self.activation(self.dense(hidden)))


class Decoder(nn.Module):
    """The weights of the words' scores, which may be those of the word embeddings."""

    def __init__(self, width: int, vocab_size: int, *, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, width))
        self.bias = nn.Parameter(torch.empty(vocab_size)) if bias else None
        self.tied = False

    def init_weights(self, std: float, generator: torch.Generator | None = None) -> None:
        """Draw the weight from normal(0, std), unless it is the embeddings' to draw; the bias is zero."""
        if not self.tied:
            nn.init.normal_(self.weight, std=std, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class TransformedHead(Head):
    """Scores of every word at every token, and losses that never hold them all at once.

    ``shares_embeddings`` says that ``tie`` will be called. The words' bias is ``bias`` then and the decoder's
    own otherwise, which is where the reference keeps the one that it adds.
    """

    def __init__(
        self,
        hidden_size: int,
        width: int,
        vocab_size: int,
        *,
        activation: str,
        eps: float,
        shares_embeddings: bool,
    ):
        super().__init__()
        self.transform = Transform(hidden_size, width, activation, eps)
        self.decoder = Decoder(width, vocab_size, bias=not shares_embeddings)
        self.bias = nn.Parameter(torch.empty(vocab_size)) if shares_embeddings else None

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The head for a family's configuration."""
        return cls(
            config.hidden_size,
            getattr(config, "embedding_size", config.hidden_size),
            config.vocab_size,
            activation=config.head_activation,
            eps=config.layer_norm_eps,
            shares_embeddings=config.tie_word_embeddings,
        )

    def tie(self, embeddings: nn.Embedding) -> None:
        """Share the weight of the word embeddings."""
        self.decoder.weight, self.decoder.tied = embeddings.weight, True

    def init_weights(self, std: float, generator: torch.Generator | None = None) -> None:
        """Set the bias to zero; the parts draw their own."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def word_bias(self) -> Tensor:
        """(V) what is added to the words' scores."""
        return self.decoder.bias if self.bias is None else self.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V)"""
        return F.linear(self.transform(hidden), self.decoder.weight, self.word_bias)

    def nll(self, hidden: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Summed negative log-likelihood, an fp32 scalar; labels (B, T) stand where they are predicted.

        ``smoothing`` of each target's probability is spread over the whole vocabulary.
        """
        hidden, labels = supervised(hidden, labels)
        weight = self.decoder.weight
        return linear_nll(self.transform(hidden), weight, labels, bias=self.word_bias, smoothing=smoothing)

    def log_probs(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Each label's log-probability (B, T) in fp32; labels stand where they are predicted, 0 at -100."""
        return linear_log_probs(self.transform(hidden), self.decoder.weight, labels, bias=self.word_bias)


class MaskedLMHead(ScoringHead, TransformedHead):
    """What stands at each token: labels are the tokens' own, -100 where none is asked for."""

    name: ClassVar[str] = "masked_lm"
    output: ClassVar[type[ModelOutput]] = MaskedLMOutput


class TransformedCausalLMHead(NextTokenHead, TransformedHead):
    """What stands at the next token, for an encoder that is used as a decoder."""

    name: ClassVar[str] = "transformed_causal_lm"

    def output_of(self, backbone: ModelOutput) -> type[ModelOutput]:
        """With the weights of cross-attention."""
        return CausalLMOutputWithCrossAttentions

    def forward(self, hidden: Tensor, logits_to_keep: int | Tensor = 0) -> Tensor:
        """(B, T, D) -> (B, T, V), of the last ``logits_to_keep`` positions only, or of the ones it lists."""
        return super().forward(kept(hidden, logits_to_keep))
