"""How a run starts: afresh, from a checkpoint, or not at all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from rnnlab.config.repository import flatten
from rnnlab.tasks.base import Task
from rnnlab.training import checkpoint_file, run_record
from rnnlab.utils.errors import UserError, require


@dataclass(frozen=True)
class Start:
    """What a run is to do."""

    kind: Literal["fresh", "own", "other", "finished"]  # own: resume from a checkpoint in the run's folder
    ckpt: Path | None = None
    replaces: bool = False  # what another run left in the folder
    message: str = ""


def decide_start(
    folder: Path,
    overrides: list[str],
    ckpt: str | None,
    history: Path,
    swept: bool = False,
    writes: bool = True,
    external: bool = False,
    restarted: bool = False,
) -> Start:
    """Decide how a run starts from what is on disk, which stays as it is.

    **Arguments:**

    - `folder`: of the run. The same command continues the run in it that was interrupted.
    - `history`: the folder of the runs that `ckpt=last` searches if `folder` has no checkpoint.
    - `swept`: whether the run is a job of a sweep, which skips what is finished.
    - `writes`: whether this process is the one that writes to the folder.
    - `external`: whether torchrun or srun has started it. Its ranks cannot agree on a record that one of them is about
      to replace, so they continue only if they are `restarted`.

    **Raises:** `UserError` if no checkpoint can be read, and if the folder holds another run that is not over.
    """
    record, kept = run_record.read(folder), checkpoint_file.kept(folder)
    status = run_record.status(record)
    is_same = identity(record.get("overrides") or []) == identity(overrides)
    alone = writes and not external
    require(
        not (alone and status == "running" and run_record.on_this_host(record)),
        f"{folder}: process {record.get('pid')} is at this run. Wait for it, or choose another folder.",
    )
    if swept and is_same and status in run_record.DONE:
        return Start("finished", message=f"{folder} is finished already.")
    interrupted = bool(kept) and status in run_record.INTERRUPTED
    found, message = Path(str(ckpt)) if ckpt is not None else None, ""
    if ckpt == "last":
        candidates = kept or [path for run in history.glob("*/") for path in checkpoint_file.kept(run)]
        require(bool(candidates), f"ckpt=last: there is no checkpoint below {history}. Train without ckpt= first.")
        found, message = checkpoint_file.newest(candidates)
    elif ckpt is None and kept and (restarted if external else alone and is_same and interrupted):
        found, message = checkpoint_file.newest(kept)
    if found is not None and found.resolve().parent == (folder / "checkpoints").resolve():
        return Start("own", found, message=message)
    require(
        not (writes and interrupted) or (is_same and ckpt is None),
        f"{folder} holds another run, which was interrupted. Choose another folder, or delete it.",
    )
    return Start("other" if found else "fresh", found, bool(record or kept), message)


def identity(overrides: list[str]) -> list[str]:
    """The overrides that distinguish a run."""
    return sorted(override for override in overrides if not override.startswith("ckpt="))


def check_fits(what: str, saved: dict[str, Any], model: Task, cfg: DictConfig, *sections: str) -> None:
    """Require that a checkpoint, named by `what`, has the weights, vocabulary and `sections` of the config of a run."""
    there = dict(flatten({**saved["rnnlab"]["model"], "spec": saved["hyper_parameters"]["spec"]}))
    here = dict(flatten({**plain_parts(cfg)["model"], "spec": model.spec.as_dict()}))
    keys = [name for name in here | there if here.get(name) != there.get(name)]
    if checkpoint_file.shapes(saved["state_dict"]) == checkpoint_file.shapes(model.state_dict()):
        keys = [name for name in keys if name.startswith(("spec.vocab", *sections))]
        if not keys:
            return
    differences = [f"{name} is {here.get(name)!s:.200} here and {there.get(name)!s:.200} there" for name in keys]
    raise UserError(
        f"{what} does not fit this run: {'; '.join(differences) or 'other weights'}. Set it as it was, or leave {what} "
        "out. init_from=PATH takes the weights and the vocabulary of a checkpoint, and starts with a new optimizer."
    )


def plain_parts(cfg: DictConfig) -> dict[str, Any]:
    """The configs of model and data as plain dicts, which a checkpoint holds."""
    return {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("model", "data")}
