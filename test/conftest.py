# SPDX-License-Identifier: Apache-2.0
"""Fixtures that tests of several parts share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with graphs 64x128 and 96x96 whose outputs are known by hand; do not write into it."""
    from tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", ((64, 128), (96, 96)))


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Toy tensors lose time on several threads, more so on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
