# SPDX-License-Identifier: Apache-2.0
"""Commands where an optional package is missing end with a sentence that names it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
from dvps_ros.cli.main import main
sys.argv[1:2] = []
sys.exit(main())
"""
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("torch", ["train", "config/train/lite.yaml"]),
        ("lightning", ["train", "config/train/lite.yaml"]),
        ("torch", ["export", "lite", "--random", "--size", "64x96", "--out", "OUT"]),
        ("onnx", ["export", "lite", "--random", "--size", "64x96", "--out", "OUT"]),
        ("torch", ["drive", "--minutes", "0.1", "--out", "OUT"]),
        ("onnx", ["engine", "profile", "--backend", "onnxruntime", "--precision", "fp32"]),
        ("av", ["run", "OUT/clip.mp4", "--fov", "70"]),
        ("rosbags", ["run", "OUT/clip.mcap"]),
    ],
    ids=lambda v: v if isinstance(v, str) else v[0],
)
def test_a_missing_package_is_named(missing: str, arguments: list[str], tmp_path: Path) -> None:
    for name in ("clip.mp4", "clip.mcap"):
        (tmp_path / name).write_bytes(b"x")
    command = [sys.executable, "-c", SCRIPT, missing, *(a.replace("OUT", str(tmp_path)) for a in arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    line = ended.stderr.strip().splitlines()[-1]
    assert missing in line and "pip install" in line
