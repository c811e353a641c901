# SPDX-License-Identifier: Apache-2.0
"""All tests of networks run on one thread."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_thread(one_torch_thread: None) -> None:
    """In every module here."""
