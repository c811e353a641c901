# SPDX-License-Identifier: Apache-2.0
"""The deployed graph's contract: what is written of it elsewhere says the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dvps_ros import contract
from dvps_ros.runtime.verify import LIMITS
from dvps_ros.types import NetworkOutput

DOCS = Path(__file__).resolve().parents[1] / "docs" / "graph_contract.md"


def test_the_docs_hold_the_table() -> None:
    assert contract.outputs_table() in DOCS.read_text()
    for column in contract.SEGMENT_COLUMNS:
        assert f"`{column}`" in DOCS.read_text()


def test_the_record_of_outputs_has_all_of_them() -> None:
    fields = {f.name: f.default is dataclasses.MISSING for f in dataclasses.fields(NetworkOutput)}
    assert fields == {o.name: o.required for o in contract.OUTPUTS.values()}


def test_every_kind_of_output_has_a_limit_in_every_precision() -> None:
    kinds = {o.kind for o in contract.OUTPUTS.values()} | {"state"}
    assert all(kinds <= set(limits) for limits in LIMITS.values())


def test_sizes_of_letters() -> None:
    letters = {"h": 3, "w": 5, "C": 2}
    assert contract.OUTPUTS["class_logits"].sizes(letters) == (1, 2, 3, 5)
