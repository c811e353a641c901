# SPDX-License-Identifier: Apache-2.0
"""What the package is judged by. Count a frame once with :func:`count_pairs`, hand the counts to any metric.

Every metric has ``update``, ``merge`` (of shards that hold whole sequences) and ``compute``; docs/metrics.md
gives the definitions and their switches.
"""

from dvps_ros.metrics.counts import Classes, PairCounts, count_pairs
from dvps_ros.metrics.depth import DepthByDistance, DepthErrors, DepthInliers, DepthProtocol, depth_aware_stq
from dvps_ros.metrics.flicker import DepthFlicker
from dvps_ros.metrics.pq import PanopticQuality
from dvps_ros.metrics.stq import SegmentationTrackingQuality
from dvps_ros.metrics.tracks import IdentityStability, TrackingQuality
from dvps_ros.metrics.vpq import VideoPanopticQuality

__all__ = [
    "Classes",
    "DepthByDistance",
    "DepthErrors",
    "DepthFlicker",
    "DepthInliers",
    "DepthProtocol",
    "IdentityStability",
    "PairCounts",
    "PanopticQuality",
    "SegmentationTrackingQuality",
    "TrackingQuality",
    "VideoPanopticQuality",
    "count_pairs",
    "depth_aware_stq",
]
