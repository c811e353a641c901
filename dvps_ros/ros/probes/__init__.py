# SPDX-License-Identifier: Apache-2.0
"""Graphs from outside: nodes as processes, a camera made of memory, listeners, and the figures they give."""
