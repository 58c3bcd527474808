"""The backbone of BERT and of its descendants that differ from it in how positions count.

Modules carry the names of Hugging Face checkpoints. Source: BERT (Devlin et al., 2018).
Shapes: B batch, T new tokens, S tokens with the cached ones, E an encoder's tokens, D hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from models.encoder_config import EncoderConfig
from models.layers.embeddings import EncoderEmbeddings, Pooler, embedded
from models.layers.encoder import Encoder, EncoderLayer
from models.options import CheckpointingOptions
from models.outputs import BaseModelOutputWithPoolingAndCrossAttentions, Cache


class EncoderBackbone(nn.Module, ABC):
    """Token ids, or embeddings, to hidden states and a vector of each sequence; families say the positions.

    An encoder, or with ``is_decoder`` in the configuration a decoder. ``add_pooling_layer``: whether there
    are vectors of sequences. ``attn_implementation`` is a name in ``models.layers.attention.ATTENTION``,
    ``position_padding_idx`` the row of padding among the positions, if it has one. The weights are undefined
    until ``init_weights`` or a checkpoint sets them.
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        add_pooling_layer: bool = True,
        attn_implementation: str = "sdpa",
        position_padding_idx: int | None = None,
    ):
        super().__init__()
        self.config = config
        self.embeddings = EncoderEmbeddings(
            config.vocab_size,
            config.hidden_size,
            config.max_position_embeddings,
            config.type_vocab_size,
            padding_idx=config.pad_token_id,
            position_padding_idx=position_padding_idx,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        layers = (
            EncoderLayer(
                config.hidden_size,
                config.intermediate_size,
                config.num_attention_heads,
                config.hidden_act,
                eps=config.layer_norm_eps,
                dropout=config.hidden_dropout_prob,
                attention_dropout=config.attention_probs_dropout_prob,
                cross_attention=config.add_cross_attention,
                chunk_size_feed_forward=config.chunk_size_feed_forward,
                layer=layer,
                attn_implementation=attn_implementation,
            )
            for layer in range(config.num_hidden_layers)
        )
        self.encoder = Encoder(
            layers,
            causal=config.is_decoder,
            use_cache=config.use_cache,
            attn_implementation=attn_implementation,
        )
        self.pooler = Pooler(config.hidden_size) if add_pooling_layer else None

    @abstractmethod
    def positions(
        self, input_ids: Tensor | None, embedded: Tensor, start: int, cu_seqlens: Tensor | None
    ) -> Tensor:
        """Positions (B or 1, T) of tokens, of which only the embeddings (B, T, D) may be known.

        ``start``: how many tokens are cached. ``cu_seqlens``: the borders of packed documents, each of which
        counts anew. ``ValueError`` for a text longer than the model's positions.
        """

    @property
    def is_causal(self) -> bool:
        """Whether a token sees none after itself."""
        return self.encoder.causal

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings, which a head may share."""
        return self.embeddings.word_embeddings

    def set_gradient_checkpointing(self, options: CheckpointingOptions | None) -> None:
        """Recompute each layer in the backward pass as ``options`` say, or with None keep its activations."""
        self.encoder.set_gradient_checkpointing(options)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """Hidden states of ``input_ids`` (B, T) or ``inputs_embeds`` (B, T, D).

        ``attention_mask`` (B, S) is 1 at tokens and 0 at padding on either side, cached tokens included.
        ``token_type_ids`` (B, T) are 0 when not given, ``position_ids`` (B or 1, T) those of ``positions``.
        ``cu_seqlens`` (documents + 1) packs documents into the one row of the batch; they never see each
        other. Of a decoder: with ``past_key_values`` give only the new tokens; ``use_cache`` defaults to the
        configuration's in evaluation and to no in training; ``encoder_hidden_states`` (B, E, D) with
        ``encoder_attention_mask`` (B, E) are what cross-attention looks at.
        """
        words = embedded(self.embeddings.word_embeddings, input_ids, inputs_embeds)
        packed = cu_seqlens is not None
        cache = self.encoder.cache(past_key_values, use_cache, packed=packed, encoded=encoder_hidden_states)
        if position_ids is None:
            start = cache.get_seq_length() if cache else 0
            position_ids = self.positions(input_ids, words, start, cu_seqlens)
        output = self.encoder(
            self.embeddings(words, position_ids, token_type_ids),
            attention_mask=attention_mask,
            cu_seqlens=cu_seqlens,
            encoded=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            cache=cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        pooled = None if self.pooler is None else self.pooler(output.last_hidden_state, cu_seqlens)
        return BaseModelOutputWithPoolingAndCrossAttentions(**dict(output.items()), pooler_output=pooled)
