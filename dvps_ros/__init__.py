# SPDX-License-Identifier: Apache-2.0
"""Depth-aware video panoptic segmentation for ROS 2: a library, and a thin ROS adapter on it."""

from pkgutil import extend_path

# Lets a source checkout on sys.path find the generated dvps_ros.msg of an installed copy.
__path__ = extend_path(__path__, __name__)
