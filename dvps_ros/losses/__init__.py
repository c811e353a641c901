# SPDX-License-Identifier: Apache-2.0
"""Losses: pure functions that return values per element, summed and weighted in ``total`` only."""
