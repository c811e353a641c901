# SPDX-License-Identifier: Apache-2.0
"""The data-set layouts by name."""

from __future__ import annotations

from dvps_ros.data.cityscapes_dvps import CityscapesDvps
from dvps_ros.data.kitti_step import KittiStep
from dvps_ros.data.layout import Layout
from dvps_ros.data.semkitti_dvps import SemkittiDvps

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (CityscapesDvps(), SemkittiDvps(), KittiStep())
}
