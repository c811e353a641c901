# SPDX-License-Identifier: Apache-2.0
"""Networks of the transformers library as model folders (docs/import.md). Imports torch and onnx."""

from dvps_ros.export.checkpoints.depth import DepthOptions
from dvps_ros.export.checkpoints.model import Imported, ImportOptions, import_model, open_network

__all__ = ["DepthOptions", "ImportOptions", "Imported", "import_model", "open_network"]
