# SPDX-License-Identifier: Apache-2.0
"""Benchmarks as a library; ``dvps_ros.cli`` makes commands of them."""
