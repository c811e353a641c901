# SPDX-License-Identifier: Apache-2.0
"""Panoptic networks of the transformers library, each brought to the same answer: queries with masks."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvps_ros.contract import OUTPUT_STRIDE
from dvps_ros.errors import CheckpointError, ConfigError
from dvps_ros.export.checkpoints.source import Checkpoint, load_model, read_preprocessing
from dvps_ros.networks import SIZE_STEP

TASKS = ("panoptic", "instance", "semantic")


@dataclass(frozen=True)
class Queries:
    """What every panoptic network answers; Q queries, C classes of its own."""

    class_logits: Tensor
    """[B,Q,C+1]: the last is "no object"."""
    mask_vectors: Tensor
    """[B,Q,E]."""
    pixel_vectors: Tensor
    """[B,E,H/4,W/4]: scalar products with the mask vectors are the mask logits."""
    embedding: Tensor
    """[B,Q,D]: last hidden states of the queries."""
    deepest: Tensor
    """[B,F,h,w]: the encoder's deepest features."""


class Segmenter(nn.Module, ABC):
    """One panoptic network.

    Args:
        model: of transformers.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def step(self) -> int:
        """Sizes of the input are multiples of this."""
        return SIZE_STEP

    @property
    @abstractmethod
    def widths(self) -> tuple[int, int]:
        """Lengths of the mask vectors and of the embedding."""

    @abstractmethod
    def answer(self, pixels: Tensor) -> Queries:
        """Normalised pixels [B,3,H,W] to queries; ``pixel_vectors`` at the network's own stride."""

    def forward(self, pixels: Tensor) -> Queries:
        """Normalised pixels [B,3,H,W] to queries, masks at stride 4."""
        queries = self.answer(pixels)
        size = tuple(n // OUTPUT_STRIDE for n in pixels.shape[2:])
        vectors = queries.pixel_vectors
        if vectors.shape[2:] != size:  # the masks are linear in it, so this resizes them
            vectors = F.interpolate(vectors, size=size, mode="bilinear", align_corners=False)
        return Queries(
            queries.class_logits, queries.mask_vectors, vectors, queries.embedding, queries.deepest
        )

    def check_size(self, height: int, width: int) -> None:
        """Raises:
        ConfigError: the network cannot take an input of this size.
        """
        if height % self.step or width % self.step:
            near = [max(1, round(n / self.step)) * self.step for n in (height, width)]
            raise ConfigError(
                f"size {height}x{width}: this network takes multiples of {self.step} in both directions; "
                f"the nearest is {near[0]}x{near[1]}"
            )


class Mask2Former(Segmenter):
    """Cheng et al. 2022. Its parts are called one by one: the whole needs ``use_auxiliary_loss``, and
    classifies after every layer."""

    @property
    def widths(self) -> tuple[int, int]:
        config = self.model.config
        return config.mask_feature_size, config.hidden_dim

    def answer(self, pixels: Tensor) -> Queries:
        features = self.model.model.pixel_level_module(pixels, output_hidden_states=False)
        decoder = self.model.model.transformer_module
        decoded = decoder(
            multi_scale_features=features.decoder_hidden_states,
            mask_features=features.decoder_last_hidden_state,
            output_hidden_states=False,
            output_attentions=False,
        )
        hidden = decoded.intermediate_hidden_states[-1].transpose(0, 1)
        return Queries(
            self.model.class_predictor(hidden),
            decoder.decoder.mask_predictor.mask_embedder(hidden),
            features.decoder_last_hidden_state,
            hidden,
            features.encoder_last_hidden_state,
        )


class _OneFormerLayer(nn.Module):
    """A decoder layer of OneFormer that frees the queries whose mask is empty by comparison: its own forward
    writes to their indices, of which no runtime but ONNX Runtime knows how many there are.

    Args:
        layer: of transformers; its parts are used.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.cross_attn, self.self_attn, self.ffn = layer.cross_attn, layer.self_attn, layer.ffn
        self.levels = int(layer.num_feature_levels)

    def forward(
        self,
        index: int,
        output: Tensor,
        multi_stage_features: Sequence[Tensor],
        multi_stage_positional_embeddings: Sequence[Tensor],
        attention_mask: Tensor,
        query_embeddings: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor]:
        """The queries [Q,B,D] after this layer; ``attention_mask`` [B heads,Q,N] is true where they may not
        look."""
        level = index % self.levels
        looks = attention_mask.sum(-1, keepdim=True) < attention_mask.shape[-1]
        output, _ = self.cross_attn(
            output,
            multi_stage_features[level],
            memory_mask=attention_mask & looks,
            pos=multi_stage_positional_embeddings[level],
            query_pos=query_embeddings,
        )
        output, _ = self.self_attn(output, query_pos=query_embeddings)
        return (self.ffn(output),)


class OneFormer(Segmenter):
    """Jain et al. 2023, asked for the panoptic task.

    Args:
        task: token ids of "the task is panoptic", [1, length].
    """

    task: Tensor

    def __init__(self, model: Any, task: Tensor) -> None:
        super().__init__(model)
        module = model.model.transformer_module
        if any(list(projection.parameters()) for projection in module.input_projections):
            raise CheckpointError(
                f"OneFormer with conv_dim {model.config.conv_dim} and hidden_dim {model.config.hidden_dim}: "
                "transformers loads no weights for the projections between them; both must be equal, and "
                "enforce_input_proj false"
            )
        module.decoder.layers = nn.ModuleList(_OneFormerLayer(layer) for layer in module.decoder.layers)
        self.register_buffer("task", task.float())

    @property
    def widths(self) -> tuple[int, int]:
        config = self.model.config
        return config.mask_dim, config.hidden_dim

    def answer(self, pixels: Tensor) -> Queries:
        features = self.model.model.pixel_level_module(pixels)
        module = self.model.model.transformer_module
        decoder = module.decoder
        decoded = module(
            multi_scale_features=features.decoder_features,
            mask_features=features.decoder_last_feature,
            task_token=self.model.model.task_encoder(self.task).expand(len(pixels), -1),
            output_attentions=False,
        )
        hidden = decoder.decoder_norm(decoded.object_queries)
        return Queries(
            decoder.class_embed(hidden),
            decoder.mask_embed(hidden),
            features.decoder_last_feature,
            hidden,
            features.encoder_features[-1],
        )


class Eomt(Segmenter):
    """Kerssies et al. 2025, on DINOv2 (learnt positions, interpolated to the input) or DINOv3 (rotary ones).

    Its own forward knows the square that it was trained at only, and asks buffers which blocks mask.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        config = model.config
        patch = config.patch_size
        self.patch = int(patch if isinstance(patch, int) else patch[0])
        shares = model.attn_mask_probs.tolist()
        if any(share not in (0.0, 1.0) for share in shares):
            raise CheckpointError(
                f"EoMT whose masked attention is switched off for a part of the queries at random "
                f"(attn_mask_probs {shares}): its training was not finished; expected 0 or 1 for every block"
            )
        self.masked = tuple(share > 0 for share in shares)

    @property
    def step(self) -> int:
        return math.lcm(self.patch, SIZE_STEP)

    @property
    def widths(self) -> tuple[int, int]:
        return self.model.config.hidden_size, self.model.config.hidden_size

    def answer(self, pixels: Tensor) -> Queries:
        model = self.model
        grid = (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch)
        tokens = self._embed(pixels, grid)
        prefix = model.embeddings.num_prefix_tokens
        queries = model.query.weight[None].expand(len(pixels), -1, -1)
        count = queries.shape[1]
        rotary = {}
        if hasattr(model, "rope_embeddings"):
            rotary["position_embeddings"] = model.rope_embeddings(pixels)

        bias = None
        first = len(model.layers) - len(self.masked)
        for i, layer in enumerate(model.layers):
            if i == first:
                tokens = torch.cat((queries, tokens), 1)
            if i >= first and self.masked[i - first]:
                vectors, maps = self._masks(model.layernorm(tokens), count, prefix, grid)
                bias = self._attention_bias(vectors, maps, prefix, grid)
            tokens = layer(tokens, attention_mask=bias, **rotary)
        tokens = model.layernorm(tokens)
        vectors, maps = self._masks(tokens, count, prefix, grid)
        hidden = tokens[:, :count]
        return Queries(
            model.class_predictor(hidden), vectors, maps, hidden, _as_map(tokens[:, count + prefix :], grid)
        )

    def _embed(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """Prefix and patch tokens [B,N,D], with positions."""
        embeddings = self.model.embeddings
        if hasattr(self.model, "rope_embeddings"):
            return embeddings(pixels)
        positions = embeddings.position_embeddings.weight
        height, width = (n // self.patch for n in embeddings.patch_embeddings.image_size)
        if grid != (height, width):
            trained = positions.T.reshape(1, -1, height, width)
            positions = F.interpolate(trained, size=grid, mode="bicubic", align_corners=False)[0].flatten(1).T
        patches = embeddings.patch_embeddings(pixels) + positions
        prefix = torch.cat((embeddings.cls_token, embeddings.register_tokens), 1)
        return torch.cat((prefix.expand(len(pixels), -1, -1), patches), 1)

    def _masks(self, tokens: Tensor, count: int, prefix: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Mask vectors [B,Q,E] and pixel vectors [B,E,h,w] of normalised tokens."""
        maps = self.model.upscale_block(_as_map(tokens[:, count + prefix :], grid))
        return self.model.mask_head(tokens[:, :count]), maps

    def _attention_bias(self, vectors: Tensor, maps: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
        """[B,1,N,N]: queries look at the patches of their masks only."""
        b, count, _ = vectors.shape
        logits = (vectors @ maps.flatten(2)).reshape(b, count, *maps.shape[2:])
        at_patches = F.interpolate(logits, size=grid, mode="bilinear").flatten(2)
        hidden = torch.where(at_patches > 0, 0.0, -1e9)
        return F.pad(hidden, (count + prefix, 0, 0, prefix + grid[0] * grid[1]))[:, None]


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B,h w,C] -> [B,C,h,w]."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


def _mask2former(checkpoint: Checkpoint, allow_missing: bool) -> Segmenter:
    from transformers import Mask2FormerForUniversalSegmentation

    return Mask2Former(
        load_model(checkpoint, Mask2FormerForUniversalSegmentation, allow_missing=allow_missing)
    )


def _oneformer(checkpoint: Checkpoint, allow_missing: bool) -> Segmenter:
    from transformers import CLIPTokenizer, OneFormerForUniversalSegmentation

    try:
        tokenizer = CLIPTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    # Which exception a missing or damaged file raises depends on the tokenizer's library.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{checkpoint.name}: OneFormer is asked for its task in words, and the folder has no tokenizer "
            f"({reason}); fetch vocab.json and merges.txt (or tokenizer.json) too"
        ) from error
    model: Any = load_model(
        checkpoint,
        OneFormerForUniversalSegmentation,
        allow_missing=allow_missing,
        unused=("model.text_mapper.",),
        changes={"is_training": False},
    )
    length = model.config.task_seq_len
    words = tokenizer(
        ["the task is panoptic"],
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    return OneFormer(model, words["input_ids"] * words["attention_mask"])


def _eomt(checkpoint: Checkpoint, allow_missing: bool) -> Segmenter:
    from transformers import EomtForUniversalSegmentation

    return Eomt(load_model(checkpoint, EomtForUniversalSegmentation, allow_missing=allow_missing))


def _eomt_dinov3(checkpoint: Checkpoint, allow_missing: bool) -> Segmenter:
    from transformers import EomtDinov3ForUniversalSegmentation

    return Eomt(load_model(checkpoint, EomtDinov3ForUniversalSegmentation, allow_missing=allow_missing))


SEGMENTERS: dict[str, Callable[[Checkpoint, bool], Segmenter]] = {
    "mask2former": _mask2former,
    "oneformer": _oneformer,
    "eomt": _eomt,
    "eomt_dinov3": _eomt_dinov3,
}
"""``model_type`` of config.json -> how it is loaded."""


def check_architecture(checkpoint: Checkpoint) -> None:
    """Raises:
    CheckpointError: no panoptic network that is known here.
    """
    if checkpoint.kind not in SEGMENTERS:
        made = ", ".join(map(str, checkpoint.config.get("architectures") or [checkpoint.kind]))
        raise CheckpointError(
            f"{checkpoint.name} is of architecture {checkpoint.kind} ({made}); expected one with queries and "
            f"masks: {', '.join(SEGMENTERS)}"
        )


def trained_task(checkpoint: Checkpoint) -> str | None:
    """``panoptic``, ``instance`` or ``semantic``, as far as the folder says; None where it does not.

    The weights do not show it: names, the model card's first words and the preprocessing do.
    """
    if checkpoint.kind == "oneformer":  # one network for all three
        return "panoptic"
    names = f"{checkpoint.name} {checkpoint.config.get('_name_or_path', '')}"
    words = set(re.split(r"[^a-z]+", names.lower()))
    for task in TASKS:
        if task in words:
            return task
    _, text = checkpoint.card()
    said = re.search(r"trained on [^.]{0,60}?\b(panoptic|instance|semantic)\b", text, re.IGNORECASE)
    if said:
        return said[1].lower()
    if checkpoint.kind.startswith("eomt"):
        try:  # windows over the image are how EoMT's semantic networks are run
            if read_preprocessing(checkpoint, None, None).data.get("do_split_image"):
                return "semantic"
        except ConfigError:
            return None
    return None
