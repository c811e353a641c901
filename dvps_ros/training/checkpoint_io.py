# SPDX-License-Identifier: Apache-2.0
"""How Lightning writes checkpoints here: whole or not at all, whatever file system the folder is on."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from dvps_ros.errors import DvpsError


class WholeFiles(TorchCheckpointIO):
    """Writes beside the old file, then takes its place: Lightning's own way copies from /tmp over it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None
    ) -> None:
        """Write the file, or leave the one that is there.

        Raises:
            DvpsError: the disk refuses the file (full, read-only, gone).
        """
        part = Path(f"{path}.part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                part.unlink()
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DvpsError(
                f"cannot write checkpoint {path}: {reason}; make room and call again, "
                "the checkpoint before is kept"
            ) from error
