# SPDX-License-Identifier: Apache-2.0
"""Where this package lies: the files that come with it, and the commit of its source tree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dvps_ros.errors import ConfigError


def share_folders() -> list[Path]:
    """Where the package's files may lie: the source tree, then the share folders of what is installed."""
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p] + [sys.prefix]
    source_tree = Path(__file__).resolve().parents[1]
    return [source_tree, *dict.fromkeys(Path(p) / "share" / "dvps_ros" for p in prefixes)]


def share_file(name: str) -> Path:
    """A file of the package: in the source tree, else in the share folder of the installed package.

    Raises:
        ConfigError: it is in neither.
    """
    folders = share_folders()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{name} of the package is in none of {', '.join(map(str, folders))}: install it again")


def source_commit() -> str | None:
    """The git commit of this checkout, ``+changes`` where files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None
