# SPDX-License-Identifier: Apache-2.0
"""The networks that can be trained, validated and exported. Imports torch."""

from dvps_ros.networks.deep_dps import DeepDps, DeepDpsConfig, DeepDpsObjective, DeepDpsWeights
from dvps_ros.networks.lite import Lite, LiteConfig, LiteObjective, LiteWeights
from dvps_ros.networks.mono_dvps import MonoDvps, MonoDvpsConfig, MonoDvpsObjective, MonoDvpsWeights
from dvps_ros.networks.protocol import (
    SIZE_STEP,
    Design,
    MasksPrediction,
    Network,
    Objective,
    PointsPrediction,
)

NETWORKS: dict[str, Design] = {
    Lite.name: Design(Lite, LiteConfig, LiteObjective, LiteWeights),
    DeepDps.name: Design(DeepDps, DeepDpsConfig, DeepDpsObjective, DeepDpsWeights),
    MonoDvps.name: Design(MonoDvps, MonoDvpsConfig, MonoDvpsObjective, MonoDvpsWeights),
}

__all__ = [
    "NETWORKS",
    "SIZE_STEP",
    "DeepDps",
    "DeepDpsConfig",
    "Design",
    "Lite",
    "LiteConfig",
    "MasksPrediction",
    "MonoDvps",
    "MonoDvpsConfig",
    "Network",
    "Objective",
    "PointsPrediction",
]
