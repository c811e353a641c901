# SPDX-License-Identifier: Apache-2.0
"""A procedural street world with exact truth for every pixel; see docs/world.md."""

from dvps_ros.data.world.world import World, WorldConfig, draw_camera

__all__ = ["World", "WorldConfig", "draw_camera"]
