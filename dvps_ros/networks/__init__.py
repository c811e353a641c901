# SPDX-License-Identifier: Apache-2.0
"""Networks that return :class:`RawPrediction`. Imports torch."""

from dvps_ros.networks.lite import Lite, LiteConfig
from dvps_ros.networks.prediction import SIZE_STEP, Network, RawPrediction

NETWORKS: dict[str, tuple[type[Network], type]] = {Lite.name: (Lite, LiteConfig)}
"""Name -> (network class, configuration class)."""

__all__ = ["NETWORKS", "SIZE_STEP", "Lite", "LiteConfig", "Network", "RawPrediction"]
