"""Reads checkpoint files: verified by checksum, and safe to open whoever wrote them.

A checkpoint is Lightning's: weights (`state_dict`), spec (`hyper_parameters`), optimizer, schedule, loops, callbacks,
among them random numbers; the state of stateful batches (`state`); and `rnnlab`: `format`, the plain configs of `model`
and `data`, and `written`, the sizes of the log files at that step.
"""

import io
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.data.spec import SequenceSpec
from rnnlab.utils.errors import UserError, require

FORMAT = 3
NAMES = ("last", "previous", "best")  # in a run's checkpoints/; the first is the newest


def kept(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, the newest first."""
    return [path for name in NAMES if (path := folder / "checkpoints" / f"{name}.ckpt").exists()]


def newest(paths: list[Path]) -> tuple[Path, str]:
    """The checkpoint that was written last of those that can be read, and a message about newer ones that cannot."""
    written: dict[Path, float] = {}
    for path in paths:  # within a run the names give the order, since copying may change the times
        written[path.parent] = max(path.stat().st_mtime, written.get(path.parent, 0.0))
    message = ""
    for path in sorted(paths, key=lambda path: -written[path.parent]):
        try:
            load(path)
            return path, message.strip()
        except UserError as error:
            message += f"passed over: {error}\n"
    raise UserError(f"ckpt=last: none of {', '.join(map(str, paths))} can be read.")


def load(path: str | Path, key: str = "ckpt") -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running anything in it; `key` is the setting that names it.

    **Raises:** `UserError` if it is missing, damaged, not from rnnlab, or of another version.
    """
    path = Path(str(path))  # ckpt=5 arrives as a number
    require(path.is_file(), f"{key}={path}: there is no such file. Checkpoints are in a run's checkpoints/ folder.")
    copied = io.BytesIO()  # torch's reader may find other content in the file than Python's, which is verified
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copied, "w") as copy:
            for name in dict.fromkeys(archive.namelist()):
                copy.writestr(name, archive.read(name))  # which compares the checksum
        copied.seek(0)
        checkpoint: Any = torch.load(copied, map_location="cpu", weights_only=True)
    except Exception as error:  # nearly any, for a damaged file
        cause = type(error).__name__
        raise UserError(f"{key}={path} is damaged or not a checkpoint ({cause}). Nothing of it was run.") from error
    written, is_ours = "unknown", False
    with suppress(AttributeError, KeyError, TypeError, ValueError, UserError):
        written = checkpoint["rnnlab"]["format"]
        SequenceSpec(**checkpoint["hyper_parameters"]["spec"])
        is_ours = written == FORMAT and all(map(_is_stored, checkpoint["state_dict"].values()))
    require(
        is_ours,
        f"{key}={path}: it has format {str(written)[:20]}; this is no whole checkpoint of rnnlab in format {FORMAT}.",
    )
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
    return all(
        value.numel() == 1 if name == "step" else value.shape == weights[number].shape
        for optimizer in saved["optimizer_states"]
        for number, state in optimizer["state"].items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    )
