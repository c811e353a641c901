# SPDX-License-Identifier: Apache-2.0
"""Networks as model folders (docs/graph_contract.md). Imports torch and onnx."""

from dvps_ros.export.model import export_model, parse_size
from dvps_ros.export.steering import export_steering

__all__ = ["export_model", "export_steering", "parse_size"]
