"""A search by Optuna whose trials are runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from rnnlab.sweeps.jobs import Job, Jobs, begin
from rnnlab.training import run_record
from rnnlab.utils.errors import UserError, require

STUDY = "rnnlab"


def database(folder: Path) -> str:
    """Where the trials of a sweep are kept if nothing else is said."""
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

    Trials that another process began and did not end, because it was killed, come first, with what it had chosen.

    **Arguments:**

    - `jobs`: runs them, each in a folder of its own.
    - `overrides`: of all runs; those that leave a choice are what is searched.
    - `direction`: `"minimize"` or `"maximize"` the monitored metric.
    - `n_jobs`: trials whose settings are chosen at once, to be run side by side.
    - `storage`: URL of the database that keeps the study.
    - `sampler`: of Optuna, but for its `seed`.
    - `seed`: of the sampler's choices.
    - `monitor`: the metric.

    **Raises:** `UserError` for what is no choice, and if the database holds a search among other values.
    """
    for name, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
        whole = isinstance(value, int) and value >= 1
        require(whole, f"hydra.sweeper.{name}={value} must be a whole number, 1 or more.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    space = {
        override.get_key_element(): _distribution(override) for override in overrides if override.is_sweep_override()
    }
    require(bool(space), "There is nothing to search for: give a key a choice, as in 'optim.lr=interval(1e-4,1e-1)'.")
    try:
        study = optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True, direction=direction)
        # another stretch of random numbers for a search that goes on, or it would try the same again
        study.sampler = sampler(seed=seed + len(study.trials))
    except (TypeError, ValueError, OSError, StorageInternalError, SQLAlchemyError) as error:
        raise UserError(f"hydra.sweeper: {str(error).splitlines()[0]}") from error
    elsewhere = ("trainer", "logger", "callbacks")  # may change while a search goes on
    rest = [setting for setting in sorted(fixed) if not setting.startswith(elsewhere)]
    _check_same(study, space, [*rest, f"monitor={monitor}", direction], storage)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if set(trial.distributions) < set(space):  # killed while it was chosen
            study.tell(trial.number, state=TrialState.FAIL)
    left = study.get_trials(states=(TrialState.RUNNING,))
    begin(jobs.folder, n_trials, sum(trial.state.is_finished() for trial in study.trials))
    while True:
        over = sum(trial.state.is_finished() for trial in study.trials)
        more = range(min(n_jobs, n_trials - over) - len(left))
        trials: list[Any] = [*left, *(study.ask(space) for _ in more)]
        left = []
        if not trials:
            break
        batch = [[*fixed, *_chosen(trial), f"++trial={trial.number}"] for trial in trials]
        jobs.check(batch)
        records = jobs.run(batch)
        for trial, said in zip(trials, records, strict=True):
            _tell(study, trial, said)
        _give_up(study, records)
    done = study.get_trials(states=(TrialState.COMPLETE,))
    if done:
        best = study.best_trial
        print(f"The best of {over} trials is number {best.number}, {best.value:.6g}: {' '.join(_chosen(best))}")


def _tell(study: optuna.Study, trial: Any, said: dict[str, Any]) -> None:
    score = said.get("score")
    match run_record.status(said):
        case "finished" if score is None:
            study.tell(trial.number, state=TrialState.FAIL)
            raise UserError(f"monitor={said.get('monitor')} was not measured: a search needs a validation part.")
        case "finished":
            study.tell(trial.number, score)
        case "pruned":
            study.tell(trial.number, state=TrialState.PRUNED)
        case _:
            study.tell(trial.number, state=TrialState.FAIL)


def _give_up(study: optuna.Study, records: list[dict[str, Any]]) -> None:
    """Three trials that fail, and nothing else, are no search."""
    states = {trial.state for trial in study.trials}
    if states <= {TrialState.FAIL, TrialState.WAITING} and len(study.trials) >= 3:
        raise UserError(f"All of {len(study.trials)} trials failed, the last one so: {records[-1].get('message')}")


def _chosen(trial: Any) -> Job:
    values = {key: f"{value:.10g}" if isinstance(value, float) else value for key, value in trial.params.items()}
    return [f"{key}={value}" for key, value in values.items()]


def _distribution(override: Override) -> BaseDistribution:
    """What may be chosen, in Optuna's terms: `interval(a,b)`, `range(a,b,step)`, and lists of values."""
    value: Any = override.value()
    log = "log" in getattr(value, "tags", ())
    numbers = [value.start, value.end] if isinstance(value, IntervalSweep) else None
    numbers = [_rounded(number) for number in value.range()] if isinstance(value, RangeSweep) else numbers
    if numbers is None:
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    step = {"step": abs(value.step)} if isinstance(value, RangeSweep) else {}
    kind: Any = IntDistribution if all(isinstance(number, int) for number in numbers) else FloatDistribution
    try:
        return kind(numbers[0], numbers[-1], log=log, **step)
    except ValueError as error:
        raise UserError(f"{override.input_line}: {error}") from error


def _rounded(number: Any) -> Any:
    """A step of a range without what adding up leaves."""
    return float(f"{number:.10g}") if isinstance(number, float) else number


def _check_same(study: optuna.Study, space: dict[str, BaseDistribution], rest: list[str], storage: str) -> None:
    """An interval may change while a search goes on; keys, lists of values and all that is fixed may not."""
    lists = {key: kind.choices for key, kind in space.items() if isinstance(kind, CategoricalDistribution)}
    now = [*rest, *(f"{key}={','.join(map(str, lists[key])) if key in lists else '...'}" for key in sorted(space))]
    before = study.user_attrs.get("search", now)
    there = " ".join(setting for setting in before if setting not in now)
    here = " ".join(setting for setting in now if setting not in before)
    require(
        before == now,
        f"{storage} holds another search: {there or 'nothing'} there, {here or 'nothing'} here. "
        "Search on with the same, or choose another hydra.sweep.dir.",
    )
    study.set_user_attr("search", now)
