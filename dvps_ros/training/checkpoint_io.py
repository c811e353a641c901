# SPDX-License-Identifier: Apache-2.0
"""How Lightning writes checkpoints here: whole or not at all, whatever file system the folder is on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from dvps_ros.errors import OutputError
from dvps_ros.files import whole_file


class WholeFiles(TorchCheckpointIO):
    """Writes beside the old file, then takes its place: Lightning's own way copies from /tmp over it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None
    ) -> None:
        """Write the file, or leave the one that is there.

        Raises:
            OutputError: the disk refuses the file (full, read-only, gone).
        """
        try:
            with whole_file(Path(path), sync=True) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
        except (OutputError, RuntimeError) as error:  # torch tells of a full disk in its own way
            reason = str(error.__cause__ or error).partition("\n")[0]
            raise OutputError(
                f"cannot write checkpoint {path}: {reason}; make room and call again, "
                "the checkpoint before is kept"
            ) from error
