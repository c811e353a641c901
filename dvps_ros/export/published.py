# SPDX-License-Identifier: Apache-2.0
"""The weights of a published model folder, by the names that the network gives them."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from dvps_ros.runtime.manifest import check_files, load_manifest

_PREFIX, _HALF = "network.", ".float16"


def published_weights(folder: str | Path) -> dict[str, Tensor]:
    """Parameters in the first graph of a model folder, float32, by the names that the network gives them.

    Raises:
        EngineError: the folder is no complete model, or its files were changed.
    """
    manifest = load_manifest(Path(folder))
    check_files(folder, manifest, manifest.graphs[0])
    graph = onnx.load(Path(folder) / manifest.graphs[0].file).graph
    return {
        tensor.name.removeprefix(_PREFIX).removesuffix(_HALF): torch.tensor(
            numpy_helper.to_array(tensor)
        ).float()
        for tensor in graph.initializer
        if tensor.name.startswith(_PREFIX)
    }
