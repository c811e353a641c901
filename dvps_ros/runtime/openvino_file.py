# SPDX-License-Identifier: Apache-2.0
"""An OpenVINO graph as one piece of bytes: length of the XML, the XML, the weights."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def write_openvino(model: Any) -> bytes:
    """The bytes of an ``openvino.Model``."""
    import openvino

    with tempfile.TemporaryDirectory(prefix="dvps-") as folder:
        file = Path(folder) / "graph.xml"
        openvino.save_model(model, file, compress_to_fp16=False)
        xml = file.read_bytes()
        return struct.pack("<Q", len(xml)) + xml + file.with_suffix(".bin").read_bytes()


def read_openvino(core: Any, content: bytes) -> Any:
    """The model of these bytes, on an ``openvino.Core``."""
    import openvino

    (size,) = struct.unpack_from("<Q", content)
    weights = np.frombuffer(content, np.uint8, offset=8 + size)
    return core.read_model(model=content[8 : 8 + size], weights=openvino.Tensor(weights.copy()))
