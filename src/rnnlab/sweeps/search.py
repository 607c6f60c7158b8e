"""A search with Optuna whose trials are runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import Override
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from rnnlab.sweeps.jobs import Job, Jobs
from rnnlab.sweeps.sweep import start_progress
from rnnlab.training import run_record
from rnnlab.utils.errors import UserError, require

STUDY = "rnnlab"


def database(folder: Path) -> str:
    """The URL of the database in the folder of a sweep."""
    return str(URL.create("sqlite", database=str(folder.absolute() / "optuna.db")))


def search(
    jobs: Jobs,
    overrides: list[Override],
    direction: Any,
    n_trials: int,
    n_jobs: int,
    storage: str,
    sampler: Callable[..., Any],
    seed: int,
    monitor: str,
) -> None:
    """Run trials until `n_trials` are over, and print the best.

    Trials that an interrupted search has left unfinished come first. `overrides` with several values are searched
    over; the settings are those of conf/hydra/sweeper/optuna.yaml.

    **Raises:** `UserError` for wrong settings, and if the database holds a search over other values.
    """
    require(min(n_trials, n_jobs) > 0, f"hydra.sweeper: n_trials={n_trials} and n_jobs={n_jobs} must be 1 or more.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    swept = [override for override in overrides if override.is_sweep_override()]
    space = {override.get_key_element(): _distribution(override) for override in swept}
    require(bool(space), "There is nothing to search for: give a key a choice, as in 'optim.lr=interval(1e-4,1e-1)'.")
    study = _open_study(storage, direction, sampler, seed)
    may_change = ("trainer", "logger", "callbacks")
    rest = [setting for setting in sorted(fixed) if not setting.startswith(may_change)]
    _check_same(study, space, [*rest, f"monitor={monitor}", direction], storage)
    trials: list[Any] = study.get_trials(states=(TrialState.RUNNING,))  # an interrupted search has left them
    start_progress(jobs.folder, n_trials, _num_over(study))
    while trials or _num_over(study) < n_trials:
        trials += [study.ask(space) for _ in range(min(n_jobs, n_trials - _num_over(study)) - len(trials))]
        batch = [[*fixed, *_chosen(trial), f"++trial={trial.number}"] for trial in trials]
        jobs.check(batch)
        for trial, record in zip(trials, jobs.run(batch), strict=True):
            _tell(study, trial.number, record)
        trials = []
    if study.get_trials(states=(TrialState.COMPLETE,)):
        best, values = study.best_trial, " ".join(_chosen(study.best_trial))
        print(f"The best of {_num_over(study)} trials is number {best.number}, {best.value:.6g}: {values}")


def _open_study(storage: str, direction: Any, sampler: Callable[..., Any], seed: int) -> optuna.Study:
    try:
        study = optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True, direction=direction)
        # a search that is continued needs other random numbers, or it would try the same values again
        study.sampler = sampler(seed=seed + len(study.trials))
    except (TypeError, ValueError, OSError, StorageInternalError, SQLAlchemyError) as error:
        raise UserError(f"hydra.sweeper: {str(error).splitlines()[0]}") from error
    return study


def _num_over(study: optuna.Study) -> int:
    return sum(trial.state.is_finished() for trial in study.trials)


def _tell(study: optuna.Study, number: int, record: dict[str, Any]) -> None:
    """Tell Optuna how a trial ended."""
    status, score = run_record.status(record), record.get("score")
    missing = status == "finished" and score is None
    require(not missing, f"monitor={record.get('monitor')} was not measured: a search needs a validation part.")
    state = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(status, TrialState.FAIL)
    study.tell(number, score if status == "finished" else None, state)


def _chosen(trial: Trial | FrozenTrial) -> Job:
    """The values of a trial as overrides."""
    values = trial.params.items()
    return [f"{key}={f'{value:.10g}' if isinstance(value, float) else value}" for key, value in values]


def _distribution(override: Override) -> BaseDistribution:
    """`interval(a,b)`, `range(a,b,step)` or a list of values for Optuna."""
    sweep: Any = override.value()
    if override.is_interval_sweep():
        first, last, step = sweep.start, sweep.end, None
    elif override.is_range_sweep():
        values = list(sweep.range())
        first, last, step = values[0], round(values[-1], 10), abs(sweep.step)  # floats have been added up
    else:
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    log = "log" in sweep.tags
    try:
        if isinstance(first, int) and isinstance(last, int):
            return IntDistribution(first, last, log, step or 1)
        return FloatDistribution(first, last, log, step)
    except ValueError as error:
        raise UserError(f"{override.input_line}: {error}") from error


def _check_same(study: optuna.Study, space: dict[str, BaseDistribution], rest: list[str], storage: str) -> None:
    """Only intervals may change while a search is continued; keys, lists of values and fixed settings may not."""
    lists = {key: ",".join(getattr(space[key], "choices", ["..."])) for key in sorted(space)}
    now = [*rest, *(f"{key}={values}" for key, values in lists.items())]
    before = study.user_attrs.get("search", now)
    there, here = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    require(
        before == now,
        f"{storage} holds another search: {' '.join(there)} there, {' '.join(here)} here. Continue with the same, or "
        "choose another hydra.sweep.dir.",
    )
    study.set_user_attr("search", now)
