# SPDX-License-Identifier: Apache-2.0
"""What others would put together for the same task, as ``transformers`` builds it from its configurations.

The weights are random and nothing is downloaded: these networks are good for their speed and memory only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.config import EngineConfig, PipelineConfig
from dvps_ros.errors import EngineError

INPUT = "image"
LARGEST_DIFFERENCE = 0.25
"""Of OpenVINO's answer from torch's, relative RMS: beyond it another network is timed than was built."""


@dataclass(frozen=True)
class Peer:
    """One network.

    Args:
        build: makes it, with random weights.
        multiple: its input's sides are multiples of this.
        outputs: attributes of its answer that are compared and kept.
    """

    name: str
    build: Callable[[], Any]
    multiple: int
    outputs: tuple[str, ...]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest input it takes that is not smaller than this one."""
        return (
            math.ceil(height / self.multiple) * self.multiple,
            math.ceil(width / self.multiple) * self.multiple,
        )

    def image(self, height: int, width: int) -> np.ndarray:
        """float32 [1,3,H,W]: noise, as after normalisation."""
        rng = np.random.default_rng(0)
        return rng.standard_normal((1, 3, *self.size(height, width)), dtype=np.float32)


def mask2former(backbone: str, backbone_options: Mapping[str, Any], **options: Any) -> Any:
    """Mask2Former for 19 classes on a ``resnet`` or ``swin`` backbone; no options: as in its paper."""
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        ResNetConfig,
        SwinConfig,
    )

    kind = {"resnet": ResNetConfig, "swin": SwinConfig}[backbone]
    stages = [f"stage{i}" for i in range(1, 5)]
    config = kind(out_features=stages, **backbone_options)
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(backbone_config=config, num_labels=19, **options)
    )


def depth_anything(backbone_options: Mapping[str, Any], **options: Any) -> Any:
    """Depth Anything V2: a DINOv2 encoder and a DPT decoder."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        patch_size=14, image_size=518, apply_layernorm=True, reshape_hidden_states=False, **backbone_options
    )
    return DepthAnythingForDepthEstimation(DepthAnythingConfig(backbone_config=backbone, **options))


_MASKS = ("class_queries_logits", "masks_queries_logits")
SEGMENTERS = (
    Peer("Mask2Former R50", partial(mask2former, "resnet", {}), 32, _MASKS),
    Peer(
        "Mask2Former Swin-T",
        partial(mask2former, "swin", {"depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "embed_dim": 96}),
        32,
        _MASKS,
    ),
)
DEPTH = Peer(
    "Depth Anything V2 S",
    partial(
        depth_anything,
        {
            "hidden_size": 384,
            "num_attention_heads": 6,
            "num_hidden_layers": 12,
            "out_indices": [3, 6, 9, 12],
        },
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
        head_hidden_size=32,
    ),
    14,
    ("predicted_depth",),
)

Call = Callable[[], dict[str, np.ndarray]]
"""One frame through a network; gives its outputs by name."""


def open_torch(peer: Peer, size: tuple[int, int], threads: int) -> tuple[Call, Any]:
    """The network in torch eager, and the module itself, for :func:`export`."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = _tuple_module(peer)
    image = torch.from_numpy(peer.image(*size))

    def call() -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {n: v.numpy() for n, v in zip(peer.outputs, network(image), strict=True)}

    return call, network


def _tuple_module(peer: Peer) -> Any:
    """The network as a module of one tensor in, a tuple out, which every exporter takes."""
    import torch

    class TupleModule(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a ResNet in Mask2Former works, and warns
                self.network = peer.build()

        def forward(self, image: Any) -> tuple[Any, ...]:
            answer = self.network(pixel_values=image)
            return tuple(getattr(answer, name) for name in peer.outputs)

    return TupleModule().eval()


def export(peer: Peer, network: Any, size: tuple[int, int], folder: Path) -> Path:
    """Write the network as OpenVINO's own file, with fixed shapes.

    Raises:
        EngineError: OpenVINO cannot convert it.
    """
    import openvino
    import torch

    image = peer.image(*size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: every shape is meant to be fixed
            model = openvino.convert_model(
                network, example_input=torch.from_numpy(image), input=list(image.shape)
            )
    except Exception as error:  # the converter raises types of its own
        raise EngineError(f"openvino cannot convert {peer.name}: {error}") from error
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, peer.outputs, strict=True):
        output.get_tensor().set_names({name})
    path = folder / f"{peer.name}.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def open_openvino(
    peer: Peer, path: Path, size: tuple[int, int], config: EngineConfig
) -> tuple[Call, Callable[[], None]]:
    """An exported network in the same backend, with the same options, as our own runs in, and its close.

    Raises:
        EngineError: the processor lacks the precision, or OpenVINO fails.
    """
    from dvps_ros.runtime.backends import BACKENDS
    from dvps_ros.runtime.builder import quiet

    kind = BACKENDS["openvino"]
    backend = kind.load(kind.build(path, config, quiet, path.parent), path, config)
    results = {name: np.empty(shape, dtype) for name, (dtype, shape) in backend.outputs.items()}
    image = peer.image(*size)

    def call() -> dict[str, np.ndarray]:
        backend.run({INPUT: image}, results)
        return results

    return call, backend.close


def check_answer(peer: Peer, reference: Mapping[str, np.ndarray], answer: Mapping[str, np.ndarray]) -> float:
    """The largest relative RMS difference of any output; a fast wrong answer is worth nothing.

    Raises:
        EngineError: an output is not finite, or differs by more than LARGEST_DIFFERENCE.
    """
    largest = 0.0
    for name in peer.outputs:
        expected, got = reference[name].astype(np.float64), answer[name]
        difference = math.sqrt(np.mean((got - expected) ** 2)) / max(float(expected.std()), 1e-12)
        if not difference <= LARGEST_DIFFERENCE:
            raise EngineError(
                f"{peer.name}: {name} in OpenVINO differs from torch by {difference:.2f} of its deviation, "
                f"expected {LARGEST_DIFFERENCE} at most"
            )
        largest = max(largest, difference)
    return largest


# Memory: each of these runs in a process of its own


def torch_memory_mib(parts: Sequence[Peer], size: tuple[int, int], threads: int, calls: int) -> float:
    """Peak resident memory of a process that builds and runs these networks in torch, MiB."""
    opened = [open_torch(peer, size, threads)[0] for peer in parts]
    return _peak_after(opened, calls)


def openvino_memory_mib(
    parts: Sequence[tuple[Peer, Path]], size: tuple[int, int], config: EngineConfig, calls: int
) -> float:
    """Peak resident memory of a process that loads and runs these exported networks in OpenVINO, MiB."""
    opened = [open_openvino(peer, path, size, config)[0] for peer, path in parts]
    return _peak_after(opened, calls)


def own_memory_mib(config: PipelineConfig, size: tuple[int, int], calls: int) -> float:
    """Peak resident memory of a process that opens our pipeline and runs it, MiB."""
    from dvps_ros.bench.moving import moving_frames
    from dvps_ros.runtime.pipeline import DvpsPipeline
    from dvps_ros.types import CameraModel

    camera = CameraModel.from_fov(size[1], size[0], 80.0)
    with DvpsPipeline.open(config, camera) as pipeline:
        frames = moving_frames(pipeline, config, camera)
        return _peak_after([lambda: pipeline.process(next(frames))], calls)


def _peak_after(opened: Sequence[Callable[[], Any]], calls: int) -> float:
    from dvps_ros.runtime.machine import peak_rss_mib

    for _ in range(calls):
        for call in opened:
            call()
    return peak_rss_mib()
