"""Reads checkpoint files: verified by checksum, and safe to open whoever wrote them.

A checkpoint is Lightning's: weights (`state_dict`), spec (`hyper_parameters`), optimizer, schedule, loops, callbacks,
among them random numbers; the state of stateful batches (`state`); and `rnnlab`: `format`, the plain configs of `model`
and `data`, and `written`, the sizes of the log files at that step.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from rnnlab.data.spec import SequenceSpec
from rnnlab.utils.errors import UserError, require

FORMAT = 3
NAMES = ("last", "previous", "best")  # in a run's checkpoints/; the first is the newest


class Damaged(Exception):
    """A checkpoint is not as it was written."""


def verified(path: Path) -> io.BytesIO:
    """A copy of a checkpoint whose content matches its checksums, the CRC-32 of the ZIP format.

    Only the copy is to be read: torch's reader may find other content in the file than Python's.

    **Raises:** `Damaged`.
    """
    copied = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copied, "w") as copy:
            for name in dict.fromkeys(archive.namelist()):
                copy.writestr(name, archive.read(name))  # which compares the checksum
    except Exception as error:  # nearly any, for a damaged file
        raise Damaged(f"{type(error).__name__}: {error}") from error
    copied.seek(0)
    return copied


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is there and as it was written."""
    try:
        verified(path)
    except Damaged:
        return False
    return True


def kept(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, the newest first."""
    return [path for name in NAMES if (path := folder / "checkpoints" / f"{name}.ckpt").exists()]


def newest(paths: list[Path]) -> tuple[Path | None, str]:
    """The checkpoint that was written last of those that can be read, and a message about newer ones that cannot."""
    written: dict[Path, float] = {}
    for path in paths:  # within a run the names give the order, since copying may change the times
        written[path.parent] = max(path.stat().st_mtime, written.get(path.parent, 0.0))
    passed_over = []
    for path in sorted(paths, key=lambda path: -written[path.parent]):
        try:
            load(path)
        except UserError as error:
            passed_over.append(f"passed over: {error}")
        else:
            return path, "\n".join(passed_over)
    return None, f"ckpt=last: none of {', '.join(map(str, paths))} can be read."


def load(path: str | Path, key: str = "ckpt") -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running anything in it; `key` is the setting that names it.

    **Raises:** `UserError` if it is missing, damaged, not from rnnlab, or of another version.
    """
    path = Path(str(path))  # ckpt=5 arrives as a number
    require(path.is_file(), f"{key}={path}: there is no such file. Checkpoints are in a run's checkpoints/ folder.")
    try:
        content = verified(path)
        unsafe = get_unsafe_globals_in_checkpoint(content)  # type: ignore[arg-type]
        content.seek(0)
        checkpoint: Any = None if unsafe else torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:
        message = str(error) if isinstance(error, Damaged) else type(error).__name__
        raise UserError(f"{key}={path} is damaged or not a checkpoint ({message}). Use another.") from error
    require(
        not unsafe,
        f"{key}={path} asks for {', '.join(unsafe)}, which no checkpoint of rnnlab does. Nothing of it was run.",
    )
    try:
        found = checkpoint["rnnlab"]["format"]
        require(
            found == FORMAT,
            f"it has format {str(found)[:20]}, this version reads {FORMAT}: use the version of rnnlab that wrote it.",
        )
        sections = checkpoint["rnnlab"]["model"], checkpoint["rnnlab"]["data"], checkpoint["hyper_parameters"]["spec"]
        SequenceSpec(**sections[2])
        is_ours = all(isinstance(section, dict) for section in sections) and isinstance(checkpoint["global_step"], int)
        is_ours = is_ours and all(map(_is_stored, checkpoint["state_dict"].values()))
    except UserError as error:
        raise UserError(f"{key}={path}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError):
        is_ours = False
    require(is_ours, f"{key}={path} is not a checkpoint of rnnlab. Use one from a run's checkpoints/ folder.")
    return checkpoint


def _is_stored(weight: Any) -> bool:
    """Whether the file holds every element of a tensor; an expanded one takes more memory than the file has bytes."""
    return isinstance(weight, Tensor) and weight.nbytes <= weight.untyped_storage().nbytes()


def shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    """The shape of each weight."""
    return {name: weight.shape for name, weight in state.items()}


def fits_optimizer(saved: dict[str, Any], model: nn.Module) -> bool:
    """Whether the optimizer state in a checkpoint has the shapes of the weights: fused kernels do not check."""
    weights = list(model.parameters())
    try:
        return all(
            value.numel() == 1 if name == "step" else _is_stored(value) and value.shape == weights[number].shape
            for optimizer in saved["optimizer_states"]
            for number, state in optimizer["state"].items()
            for name, value in state.items()
            if isinstance(value, Tensor)
        )
    except (AttributeError, LookupError, TypeError):
        return False
