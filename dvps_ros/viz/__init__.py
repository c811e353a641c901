# SPDX-License-Identifier: Apache-2.0
"""Pictures of results: uint8 [H,W,3] RGB arrays."""

from dvps_ros.viz.birds_eye import birds_eye
from dvps_ros.viz.mosaic import mosaic
from dvps_ros.viz.overlay import label_of, overlay
from dvps_ros.viz.palette import depth_color, panoptic_color, track_color

__all__ = ["birds_eye", "depth_color", "label_of", "mosaic", "overlay", "panoptic_color", "track_color"]
