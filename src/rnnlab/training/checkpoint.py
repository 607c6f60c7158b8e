"""Checkpoints of anyone, read so that nothing in them runs, and nothing that they say is taken on trust."""

import io
import pickletools
import zipfile
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import get_class
from torch import Tensor, nn

from rnnlab.config import repository
from rnnlab.config.validate import faults
from rnnlab.data.spec import SequenceSpec
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, require

FORMAT = 3
KEPT = ("last", "previous", "best")  # in a run's checkpoints/; the first is the newest

# all that the pickled part of a checkpoint may name: what puts tensors and plain values together
STORAGES = ("Float", "Double", "Half", "BFloat16", "Byte", "Char", "Short", "Int", "Long", "Bool", "ComplexFloat")
NAMES = {
    "collections OrderedDict", "collections defaultdict", "torch Size", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter", *(f"torch {kind}Storage" for kind in STORAGES),
}  # fmt: skip

NODES, DEPTH = 10**6, 20  # of the values that describe a network and its data


class Damaged(Exception):
    """A file is not as it was written."""


def verify(path: Path) -> list[str]:
    """Compare all content of a checkpoint with its checksums, the CRC-32 of the ZIP format, which torch writes.

    **Returns:** what it `named`.

    **Raises:** `Damaged`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = {entry.filename.casefold() for entry in entries}
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            if len(names) < len(entries) or packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise Damaged("its table of contents is wrong")
            if wrong := archive.testzip():
                raise Damaged(f"{wrong} has another checksum")
        return named(path)
    except Exception as error:  # nearly any, for a damaged file
        raise Damaged(str(error) if isinstance(error, Damaged) else f"{type(error).__name__}: {error}") from error


def named(path: Path) -> list[str]:
    """What a checkpoint names beside tensors and plain values: Python's names of functions and classes."""
    with zipfile.ZipFile(path) as archive:
        [pickled] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        operations = pickletools.genops(archive.read(pickled))
        found = {str(argument) for operation, argument, _ in operations if operation.name == "GLOBAL"}
    return [name.replace(" ", ".") for name in sorted(found - NAMES)]


def _copied(path: Path) -> io.BytesIO:
    """A checkpoint as `verify` has read it: what torch's reader would take for its parts may be others."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(buffer, "w") as copy:
        for entry in archive.infolist():
            copy.writestr(entry.filename, archive.read(entry))
    buffer.seek(0)
    return buffer


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is there and as it was written."""
    try:
        verify(path)
    except Damaged:
        return False
    return True


def kept(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder."""
    return [path for name in KEPT if (path := folder / "checkpoints" / f"{name}.ckpt").exists()]


def newest(paths: list[Path]) -> Path:
    """The checkpoint that was written last and can be read; others that are newer are told of.

    **Raises:** `UserError` if there is none.
    """
    written: dict[Path, float] = {}
    for path in paths:  # in a run their names tell their order, whatever a copy has made of their times
        written[path.parent] = max(path.stat().st_mtime, written.get(path.parent, 0.0))
    for path in sorted(paths, key=lambda path: -written[path.parent]):
        try:
            load(path)
        except UserError as error:
            tell(f"passed over: {error}")
        else:
            return path
    raise UserError(f"ckpt=last: none of {', '.join(map(str, paths))} can be read.")


def load(path: str | Path, key: str = "ckpt") -> dict[str, Any]:
    """Read a checkpoint that rnnlab wrote, onto the CPU, running none of its content.

    **Arguments:**

    - `key`: the setting that names it, for messages.

    **Raises:** `UserError` if it is missing, damaged, not from rnnlab, or of another version.
    """
    path = Path(str(path))  # ckpt=5 arrives as a number
    require(path.is_file(), f"{key}={path}: there is no such file. Checkpoints are in a run's checkpoints/ folder.")
    try:
        strange = verify(path)
        require(
            not strange,
            f"{key}={path} asks for {', '.join(strange)}, which no checkpoint of rnnlab does. Nothing of it was run.",
        )
        checkpoint = torch.load(_copied(path), map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        said = str(error) if isinstance(error, Damaged) else type(error).__name__
        raise UserError(f"{key}={path} is damaged or not a checkpoint ({said}). Use another.") from error
    try:
        found = checkpoint["rnnlab"]["format"]
        require(
            type(found) is int and found == FORMAT,
            f"it has format {str(found)[:20]}, this version reads {FORMAT}: use the version of rnnlab that wrote it.",
        )
        parts = checkpoint["rnnlab"]["model"], checkpoint["rnnlab"]["data"], checkpoint["hyper_parameters"]["spec"]
        ours = all(isinstance(part, dict) and _is_plain(part) for part in parts)
        weights = {name: dict.get(checkpoint["state_dict"], name) for name in dict.__iter__(checkpoint["state_dict"])}
        ours = ours and all(map(_is_backed, weights.values())) and type(checkpoint["global_step"]) is int
        SequenceSpec(**parts[2])
        checkpoint["state_dict"] = weights
    except UserError as error:
        raise UserError(f"{key}={path}: {error}") from error
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        ours = False
    require(ours, f"{key}={path} is not a checkpoint of rnnlab. Use one from a run's checkpoints/ folder.")
    return checkpoint


def _is_plain(tree: Any) -> bool:
    """Whether nested dicts and lists hold plain values only, and so few that they can be looked through.

    A list that holds a list twice, which holds another twice, and so on, is short in a file and endless to read.
    """
    stack, count = [(tree, 0)], 0
    while stack:
        node, depth = stack.pop()
        count += 1
        inner: Any = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
        plain = type(node) in (dict, list, tuple, str, int, float, bool, NoneType)  # a subclass may hide what it holds
        if not plain or depth > DEPTH or count > NODES or (isinstance(node, dict) and set(map(type, node)) - {str}):
            return False
        stack.extend((child, depth + 1) for child in inner)
    return True


def _is_backed(weight: Any) -> bool:
    """Whether a tensor has all its numbers in the file, and they are numbers: a size is quickly written."""
    stored = isinstance(weight, Tensor) and weight.layout == torch.strided and weight.device.type == "cpu"
    return stored and weight.nbytes <= weight.untyped_storage().nbytes() and bool(weight.isfinite().all())


def fits_optimizer(saved: dict[str, Any], model: nn.Module) -> bool:
    """Whether what an optimizer remembers in a checkpoint is of the weights' shapes: fused kernels do not look."""
    weights = list(model.parameters())
    try:
        return all(
            _is_backed(value) and (value.numel() == 1 if name == "step" else value.shape == weights[number].shape)
            for optimizer in saved["optimizer_states"]
            for number, kept in optimizer["state"].items()
            for name, value in kept.items()
            if isinstance(value, Tensor)
        )
    except (AttributeError, LookupError, TypeError):
        return False


def _check(config: dict[str, Any], section: str, path: str | Path) -> None:
    """Raise `UserError` if a part of a checkpoint asks for anything that the same part of the local `conf/` does not.

    Each `_target_` has to be, by its exact name, one that a yaml names at the same place; it has to take the arguments.
    """
    allowed: dict[str, set[Any]] = {}
    for place, target in repository.targets().items():
        allowed.setdefault(place.partition(":")[2], set()).add(target)
    for key, value in repository.flatten({section: config}):
        place = key.removeprefix("model.") if key.startswith(("model.cell.", "model.optim.")) else key
        name = key.rpartition(".")[2]
        require(
            name != "_target_" or (isinstance(value, str) and value in allowed.get(place, ())),
            f"ckpt={path} asks for {value} as {key}, which no yaml in conf/ does. If you trust it, add one that does.",
        )
        known = not name.startswith("_") or name in ("_target_", "_recursive_", "_convert_", "_partial_")
        require(
            known and "${" not in str(value) and (name == "_target_" or "_target_" not in str(value)),
            f"ckpt={path} holds {key}={value}, which would be worked out on loading. Use another.",
        )
    if wrong := faults(config, section):
        raise UserError(*(f"ckpt={path}: {line}" for line in wrong))


def build(config: dict[str, Any], section: str, path: str | Path, **kwargs: Any) -> Any:
    """Build a part of a checkpoint, if the local `conf/` names all that it asks for.

    **Arguments:**

    - `section`: `"model"` or `"data"`.

    **Raises:** `UserError`, before anything is imported, for what `conf/` does not name, and if the part cannot be
    built.
    """
    require("_target_" in config, f"ckpt={path} does not say what its {section} is. Use another.")
    _check(config, section, path)
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        return get_class(config["_target_"])(**arguments, **kwargs)
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError, HydraException) as error:
        raise UserError(f"ckpt={path} describes what cannot be built: {' '.join(str(error).split())}") from error


def load_model(saved: dict[str, Any], path: str | Path) -> Any:
    """The trained model of a checkpoint that `load` has read.

    It is built without memory first: sizes are taken from a checkpoint only where it holds as many weights.

    **Raises:** `UserError`, see `build`, and if the weights are not those of the network that the checkpoint describes.
    """
    config, weights = saved["rnnlab"]["model"], saved["state_dict"]
    fits = f"ckpt={path} does not hold the weights of the network that it describes."
    layers = config["cell"].get("num_layers", 1) if isinstance(config.get("cell"), dict) else 1
    require(not isinstance(layers, int) or layers <= len(weights), fits)
    spec = saved["hyper_parameters"]["spec"]
    with torch.device("meta"):
        described = build(config, "model", path, spec=spec)
    require(shapes(described.state_dict()) == shapes(weights), fits)
    model = build(config, "model", path, spec=spec)
    model.load_state_dict(weights)
    return model


def load_parts(path: str | Path, data: dict[str, Any]) -> tuple[Any, Any]:
    """The trained model of a checkpoint and its data, not set up yet.

    **Arguments:**

    - `data`: settings that differ from those in training; with a `_target_`, other data.

    **Raises:** `UserError`, see `load` and `load_model`.
    """
    saved = load(path)
    stored = {key: value for key, value in saved["rnnlab"]["data"].items() if key != "cache"}  # where to write is ours
    unknown = [] if "_target_" in data else [key for key in data if key not in (*stored, "cache")]
    known = ", ".join(key for key in stored if not key.startswith("_"))
    require(not unknown, f"data.{', data.'.join(unknown)}: no setting of the checkpoint's data, which has {known}.")
    model = load_model(saved, path)
    datamodule = build(data if "_target_" in data else {**stored, **data}, "data", path)
    if model.kind in datamodule.kinds:
        datamodule.spec = model.spec
    return model, datamodule


def shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    """The shape of each weight."""
    return {name: weight.shape for name, weight in state.items()}
