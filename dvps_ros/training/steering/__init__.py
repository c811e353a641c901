# SPDX-License-Identifier: Apache-2.0
"""Steering: drives to learn from, their tokens, the head's training and baselines, and the closed loop."""
