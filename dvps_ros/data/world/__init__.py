# SPDX-License-Identifier: Apache-2.0
"""A procedural street world with exact truth for every pixel; see docs/world.md."""

from dvps_ros.data.world.world import DEMO, LOOK, STREETS, World, WorldConfig, demo_world, draw_camera

__all__ = ["DEMO", "LOOK", "STREETS", "World", "WorldConfig", "demo_world", "draw_camera"]
