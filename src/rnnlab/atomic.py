"""Small files that are whole at any time."""

import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Replace a file, so that a reader, and who comes after a crash, sees the old one or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
