# SPDX-License-Identifier: Apache-2.0
"""Folders of the transformers library with tiny networks of random weights, as users have them on disk."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    ResNetConfig,
    SwinConfig,
)

from dvps_ros.labels import CITYSCAPES

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = ["stage1", "stage2", "stage3", "stage4"]
QUERIES = 8


def swin() -> SwinConfig:
    return SwinConfig(
        image_size=64,
        embed_dim=16,
        depths=[1] * 4,
        num_heads=[1, 2, 2, 2],
        window_size=4,
        out_features=STAGES,
    )


def resnet() -> ResNetConfig:
    return ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic", out_features=STAGES
    )


def labels_of(names: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "num_labels": len(names),
    }


def mask2former(names: Sequence[str], backbone: Any = None) -> Any:
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=backbone or swin(),
            feature_size=32,
            mask_feature_size=16,
            hidden_dim=32,
            encoder_feedforward_dim=16,
            dim_feedforward=16,
            encoder_layers=1,
            decoder_layers=3,
            num_attention_heads=2,
            num_queries=QUERIES,
            **labels_of(names),
        )
    )


def oneformer(names: Sequence[str]) -> Any:
    return OneFormerForUniversalSegmentation(
        OneFormerConfig(
            backbone_config=swin(),
            conv_dim=32,
            hidden_dim=32,
            mask_dim=32,
            encoder_feedforward_dim=16,
            dim_feedforward=16,
            encoder_layers=1,
            decoder_layers=3,
            query_dec_layers=1,
            num_attention_heads=2,
            num_queries=QUERIES,
            task_seq_len=12,
            is_training=False,
            **labels_of(names),
        )
    )


def eomt(names: Sequence[str], *, patch: int = 16, masked: bool = False, dinov3: bool = False) -> Any:
    options = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 4 * patch,
        "patch_size": patch,
        "num_blocks": 2,
        "num_queries": QUERIES,
        "num_register_tokens": 2,
    }
    if dinov3:
        model = EomtDinov3ForUniversalSegmentation(
            EomtDinov3Config(**options, intermediate_size=32, **labels_of(names))
        )
    else:
        model = EomtForUniversalSegmentation(EomtConfig(**options, mlp_ratio=2, **labels_of(names)))
    model.attn_mask_probs.fill_(float(masked))
    return model


def depth_anything(kind: str = "metric", max_depth: int | None = 80) -> Any:
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=70,
        patch_size=14,
        out_indices=[1, 2],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    torch.manual_seed(4)
    model = DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=16,
            reassemble_factors=[1, 0.5],
            neck_hidden_sizes=[8, 8],
            fusion_hidden_size=8,
            head_hidden_size=8,
            depth_estimation_type=kind,
            max_depth=max_depth,
        )
    ).eval()
    with torch.no_grad():
        # They begin so small that all depths would be one.
        for part in (*model.neck.modules(), *model.head.modules()):
            if isinstance(part, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
                torch.nn.init.kaiming_normal_(part.weight)
        image = torch.randn(1, 3, 70, 70, generator=torch.Generator().manual_seed(1))
        values = (model(pixel_values=image).predicted_depth / (max_depth or 1)).clamp(1e-4, 1 - 1e-4).logit()
        model.head.conv3.weight.mul_(1 / values.std())
        model.head.conv3.bias.copy_((model.head.conv3.bias - values.mean()) / values.std())
    return model


NETWORKS = {
    "mask2former": mask2former,
    "mask2former_r50": lambda names: mask2former(names, resnet()),
    "oneformer": oneformer,
    "eomt": eomt,
    "eomt_masked": lambda names: eomt(names, masked=True),
    "eomt_dinov3": lambda names: eomt(names, dinov3=True),
}


def made(name: str, names: Sequence[str] = CITYSCAPES.names) -> Any:
    """A network of this kind whose queries are sure of their classes; evaluation mode."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = NETWORKS[name](names).eval()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(std=0.2)
                part.running_var.uniform_(0.5, 2)
        if name == "oneformer":  # else the task's words outweigh what makes queries differ
            model.model.transformer_module.queries_embedder.weight.normal_(std=3.0)
            words = (m for m in model.model.task_encoder.modules() if isinstance(m, torch.nn.Linear))
            next(words).weight.mul_(0.01)
        decide(model, len(names))
        # Masks with edges that a rounding does not move, but not so steep that all queries tie at 1.
        last = mask_head(model)
        spread = model(**noise(model)).masks_queries_logits.std()
        last.weight.mul_(3 / spread)
        last.bias.mul_(3 / spread)
    return model


def noise(model: Any, height: int = 64, width: int = 64) -> dict[str, torch.Tensor]:
    """What the network's own forward takes."""
    generator = torch.Generator().manual_seed(1)
    feeds = {"pixel_values": torch.randn(1, 3, height, width, generator=generator)}
    if model.config.model_type == "oneformer":
        feeds["task_inputs"] = torch.ones(1, model.config.task_seq_len)
    return feeds


def mask_head(model: Any) -> torch.nn.Linear:
    """The last layer of what makes the mask vectors."""
    if hasattr(model, "mask_head"):
        return model.mask_head.fc3
    decoder = model.model.transformer_module.decoder
    head = decoder.mask_embed if hasattr(decoder, "mask_embed") else decoder.mask_predictor.mask_embedder
    return [m for m in head.modules() if isinstance(m, torch.nn.Linear)][-1]


def class_head(model: Any) -> Any:
    if hasattr(model, "class_predictor"):
        return model.class_predictor
    return model.model.transformer_module.decoder.class_embed


def decide(model: Any, classes: int) -> None:
    """Each query is sure of a class, and they are of several: what all embeddings share says nothing."""
    head, seen = class_head(model), []
    hook = head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(**noise(model))
    hook.remove()
    hidden = seen[-1].flatten(0, -2)
    centred = hidden - hidden.mean(0)
    head.weight.normal_()
    head.weight.mul_(6 / (centred @ head.weight.T).std())
    head.bias.copy_(-(head.weight @ hidden.mean(0)))
    head.bias[classes] = -30.0  # never "no object"
    head.weight[classes] = 0.0


def save_panoptic(folder: Path, model: Any, *, licence: str | None = "mit", **changes: Any) -> Path:
    """As ``save_pretrained`` leaves it, with the processor's file and a card."""
    model.save_pretrained(folder)
    if model.config.model_type == "oneformer":
        _save_tokenizer(folder)
    return _save_facts(folder, licence, {"image_processor_type": "Mask2FormerImageProcessor"} | changes)


def save_depth(folder: Path, model: Any, *, licence: str | None = "apache-2.0", **changes: Any) -> Path:
    model.save_pretrained(folder)
    size = {"size": {"height": 70, "width": 70}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}
    return _save_facts(folder, licence, size | {"resample": 3} | changes)


def _save_facts(folder: Path, licence: str | None, data: dict[str, Any]) -> Path:
    scale = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    facts = scale | {"image_mean": list(MEAN), "image_std": list(STD)} | data
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    if licence is not None:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# A network\n")
    return folder


def _save_tokenizer(folder: Path) -> None:
    """CLIP's kind, with a token a letter."""
    letters = sorted(set("thetaskispanoptic"))
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
