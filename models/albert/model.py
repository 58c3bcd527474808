"""The ALBERT architecture: factorized embeddings, post-norm layers that are used many times, a pooler.

Modules carry the names of Hugging Face checkpoints. Source: ALBERT (Lan et al., 2020).
Shapes: B batch, T tokens, N packed tokens, E embedding width, D hidden, F intermediate, H heads, C channels a
head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.albert.config import AlbertConfig
from models.layers.attention import Visibility, attention_named, require_weights
from models.layers.checkpointing import checkpointed
from models.layers.embeddings import (
    EncoderEmbeddings,
    counted_positions,
    embedded,
    first_tokens,
    require_positions,
)
from models.layers.mlp import ACTIVATIONS
from models.options import CheckpointingOptions
from models.outputs import BaseModelOutputWithPooling

Step = tuple[Tensor, Tensor | None]  # a layer's output (B, T, D) and the eager backend's weights (B, H, T, T)


class AlbertAttention(nn.Module):
    """Attention among all tokens, projected, added back and normalized."""

    def __init__(self, config: AlbertConfig, attn_implementation: str):
        super().__init__()
        hidden = config.hidden_size
        self.head_dim = hidden // config.num_attention_heads
        self.scale, self.attention_dropout = self.head_dim**-0.5, config.attention_probs_dropout_prob
        self.dropout = config.hidden_dropout_prob
        self.attend = attention_named(attn_implementation)
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.dense = nn.Linear(hidden, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, visibility: Visibility) -> Step:
        """(B, T, D) -> (B, T, D) and, from the eager backend, the weights (B, H, T, T)."""
        by_head = (*x.shape[:2], -1, self.head_dim)
        q = self.query(x).view(by_head).transpose(1, 2)  # (B, H, T, C)
        k = self.key(x).view(by_head).transpose(1, 2)
        v = self.value(x).view(by_head).transpose(1, 2)
        dropout = self.attention_dropout if self.training else 0.0
        out, weights = self.attend(q, k, v, visibility, scale=self.scale, dropout=dropout)
        out = self.dense(out.transpose(1, 2).flatten(2))
        return self.LayerNorm(x + F.dropout(out, self.dropout, self.training)), weights


class AlbertLayer(nn.Module):
    """Attention and a feed-forward block, each added back and normalized; no dropout in the latter."""

    def __init__(self, config: AlbertConfig, attn_implementation: str):
        super().__init__()
        self.gradient_checkpointing: CheckpointingOptions | None = None
        self.chunk_size = config.chunk_size_feed_forward
        self.full_layer_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = AlbertAttention(config, attn_implementation)
        self.ffn = nn.Linear(config.hidden_size, config.intermediate_size)
        self.ffn_output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, visibility: Visibility) -> Step:
        """(B, T, D) -> (B, T, D) and the attention weights, if the backend gives them."""
        options = self.gradient_checkpointing
        if options is not None and self.training and torch.is_grad_enabled():
            # Inside the layer's own forward, so that sharding hooks around the layer run once a use.
            return checkpointed(options, self._layer, x, visibility)
        return self._layer(x, visibility)

    def _layer(self, x: Tensor, visibility: Visibility) -> Step:
        x, weights = self.attention(x, visibility)
        return self.full_layer_layer_norm(x + self._feed_forward(x)), weights

    def _feed_forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D) by way of (B, T, F), which exists for a chunk of the tokens at a time."""
        chunks = x.split(self.chunk_size, dim=1) if self.chunk_size else (x,)
        done = [self.ffn_output(self.activation(self.ffn(chunk))) for chunk in chunks]
        return torch.cat(done, dim=1) if len(done) > 1 else done[0]


class AlbertLayerGroup(nn.Module):
    """Layers that run one after another whenever the group does."""

    def __init__(self, config: AlbertConfig, attn_implementation: str):
        super().__init__()
        self.albert_layers = nn.ModuleList(
            AlbertLayer(config, attn_implementation) for _ in range(config.inner_group_num)
        )

    def forward(self, x: Tensor, visibility: Visibility) -> list[Step]:
        """(B, T, D) -> what each of the layers gives; the last one's output is the group's."""
        steps: list[Step] = []
        for layer in self.albert_layers:
            steps.append(layer(x, visibility))
            x = steps[-1][0]
        return steps


class AlbertTransformer(nn.Module):
    """The way from the embeddings' width to hidden states, through each group several times in a row."""

    def __init__(self, config: AlbertConfig, attn_implementation: str):
        super().__init__()
        self.embedding_hidden_mapping_in = nn.Linear(config.embedding_size, config.hidden_size)
        self.albert_layer_groups = nn.ModuleList(
            AlbertLayerGroup(config, attn_implementation) for _ in range(config.num_hidden_groups)
        )
        # In floating point as upstream, which decides how an uneven division comes out.
        uses = config.num_hidden_layers / config.num_hidden_groups
        self.order = [int(layer / uses) for layer in range(config.num_hidden_layers)]

    def forward(self, embedded: Tensor, visibility: Visibility) -> list[Step]:
        """(B, T, E) -> the first layer's input (B, T, D), then what each layer gives each time it is used."""
        x = self.embedding_hidden_mapping_in(embedded)
        steps: list[Step] = [(x, None)]
        for group in self.order:
            steps += self.albert_layer_groups[group](x, visibility)
            x = steps[-1][0]
        return steps


class AlbertBackbone(nn.Module):
    """The backbone: token ids, or embeddings, to hidden states and a vector of each sequence.

    ``add_pooling_layer``: whether there are vectors of sequences. ``attn_implementation`` is a name in
    ``models.layers.attention.ATTENTION``. The weights are undefined until ``init_weights`` or a checkpoint
    sets them.
    """

    def __init__(
        self, config: AlbertConfig, *, add_pooling_layer: bool = True, attn_implementation: str = "sdpa"
    ):
        super().__init__()
        self.config, self.attn_implementation = config, attn_implementation
        self.embeddings = EncoderEmbeddings(
            config.vocab_size,
            config.embedding_size,
            config.max_position_embeddings,
            config.type_vocab_size,
            padding_idx=config.pad_token_id,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        self.encoder = AlbertTransformer(config, attn_implementation)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if add_pooling_layer else None

    @property
    def extra_uses(self) -> int:
        """The parameters of each group, once for every use of it beyond the first."""
        sizes = [sum(p.numel() for p in group.parameters()) for group in self.encoder.albert_layer_groups]
        return sum(sizes[group] for group in self.encoder.order) - sum(sizes)

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings (V, E), which a head may share."""
        return self.embeddings.word_embeddings

    def set_gradient_checkpointing(self, options: CheckpointingOptions | None) -> None:
        """Recompute each use of a layer in the backward pass as ``options`` say, or with None keep all."""
        for group in self.encoder.albert_layer_groups:
            for layer in group.albert_layers:
                layer.gradient_checkpointing = options

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BaseModelOutputWithPooling:
        """Hidden states of ``input_ids`` (B, T) or ``inputs_embeds`` (B, T, E).

        ``attention_mask`` (B, T) is 1 at tokens and 0 at padding on either side. ``token_type_ids`` (B, T)
        are 0 when not given, ``position_ids`` (B or 1, T) count from 0, in each packed document where
        ``cu_seqlens`` (documents + 1) packs them into the one row of the batch; those never see each other.
        ``hidden_states`` and ``attentions`` are of each layer each time it is used.
        """
        require_weights(output_attentions, self.attn_implementation)
        words = embedded(self.embeddings.word_embeddings, input_ids, inputs_embeds)
        if position_ids is None:
            position_ids = counted_positions(words.shape[1], 0, cu_seqlens, words.device)
            require_positions(position_ids, words.shape[1] - 1, self.config.max_position_embeddings)
        visibility = Visibility.of(words, attention_mask, cu_seqlens, causal=False)
        steps = self.encoder(self.embeddings(words, position_ids, token_type_ids), visibility)
        x = steps[-1][0]
        return BaseModelOutputWithPooling(
            last_hidden_state=x,
            pooler_output=None if self.pooler is None else self._pooled(x, cu_seqlens),
            hidden_states=tuple(output for output, _ in steps) if output_hidden_states else None,
            attentions=tuple(weights for _, weights in steps[1:]) if output_attentions else None,
        )

    def _pooled(self, hidden: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, D) of the first tokens, or (1, N, D) -> (documents, D)."""
        return torch.tanh(self.pooler(first_tokens(hidden, cu_seqlens)))
