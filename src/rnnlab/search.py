"""A search by Optuna whose trials are runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from rnnlab import record
from rnnlab.errors import UserError, require
from rnnlab.sweep import Job, Jobs, begin

STUDY = "rnnlab"


def database(folder: Path) -> str:
    """Where the trials of a sweep are kept if nothing else is said."""
    return f"sqlite:///{folder.absolute()}/optuna.db"


def search(
    jobs: Jobs,
    overrides: list[Override],
    direction: Any,
    n_trials: int,
    n_jobs: int,
    storage: str,
    sampler: Callable[..., Any],
    seed: int,
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

    **Raises:** `UserError` for what is no choice, and if the database holds a search among other values.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    space = {
        override.get_key_element(): _distribution(override) for override in overrides if override.is_sweep_override()
    }
    require(bool(space), "There is nothing to search for: give a key a choice, as in 'optim.lr=interval(1e-4,1e-1)'.")
    study = optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True, direction=direction)
    _check_same(study, space, storage)
    # another stretch of random numbers for a search that goes on, or it would try the same again
    study.sampler = sampler(seed=seed + len(study.trials))
    left = study.get_trials(states=(TrialState.RUNNING,))
    begin(jobs.folder, n_trials)
    while True:
        over = sum(trial.state.is_finished() for trial in study.trials)
        more = range(min(n_jobs, n_trials - over) - len(left))
        trials: list[Any] = [*left, *(study.ask(space) for _ in more)]
        left = []
        if not trials:
            break
        batch = [[*fixed, *_chosen(trial), f"callbacks.pruning.trial={trial.number}"] for trial in trials]
        jobs.check(batch)
        for trial, said in zip(trials, jobs.run(batch), strict=True):
            _tell(study, trial, said)
    done = study.get_trials(states=(TrialState.COMPLETE,))
    if done:
        best = study.best_trial
        print(f"The best of {over} trials is number {best.number}, {best.value:.6g}: {' '.join(_chosen(best))}")


def _tell(study: optuna.Study, trial: Any, said: dict[str, Any]) -> None:
    score = said.get("score")
    match record.status(said):
        case "finished" if score is None:
            raise UserError(f"monitor={said.get('monitor')} was not measured: a search needs a validation part.")
        case "finished":
            study.tell(trial.number, score)
        case "pruned":
            study.tell(trial.number, state=TrialState.PRUNED)
        case _:
            study.tell(trial.number, state=TrialState.FAIL)


def _chosen(trial: Any) -> Job:
    return [f"{key}={value}" for key, value in trial.params.items()]


def _distribution(override: Override) -> BaseDistribution:
    """What may be chosen, in Optuna's terms: `interval(a,b)`, `range(a,b,step)`, and lists of values."""
    value: Any = override.value()
    log = "log" in getattr(value, "tags", ())
    numbers = [value.start, value.end] if isinstance(value, IntervalSweep) else None
    numbers = list(value.range()) if isinstance(value, RangeSweep) else numbers
    if numbers is None:
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    kind: Any = IntDistribution if all(isinstance(number, int) for number in numbers) else FloatDistribution
    try:
        return kind(numbers[0], numbers[-1], log=log, **({"step": value.step} if isinstance(value, RangeSweep) else {}))
    except ValueError as error:
        raise UserError(f"{override.input_line}: {error}") from error


def _check_same(study: optuna.Study, space: dict[str, BaseDistribution], storage: str) -> None:
    """An interval may change while a search goes on; keys and lists of values may not."""
    for trial in study.trials:
        for key, before in trial.distributions.items():
            now = space.get(key)
            lists = isinstance(before, CategoricalDistribution) or isinstance(now, CategoricalDistribution)
            require(
                set(trial.distributions) == set(space) and (now == before or not lists),
                f"{storage} holds a search over {', '.join(_values(trial.distributions))}, and this is one over "
                f"{', '.join(_values(space))}. Search on with the same, or choose another hydra.sweep.dir.",
            )


def _values(space: dict[str, BaseDistribution]) -> list[str]:
    return [
        f"{key}={','.join(map(str, kind.choices))}" if isinstance(kind, CategoricalDistribution) else key
        for key, kind in sorted(space.items())
    ]
