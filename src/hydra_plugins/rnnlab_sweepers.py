"""How `-m` sweeps: a grid of jobs, or a search by Optuna. Hydra finds its plugins in this namespace."""

from importlib.util import find_spec
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.utils import instantiate


class Grid(BasicSweeper):
    """Every combination of the values given, as Hydra's own sweeper, but no job takes the others with it.

    A job that fails is shown in the table at the end, and the exit code is not 0; a sweep that was interrupted goes on
    where it stopped if it is started again with the same `hydra.sweep.dir`.

    **Arguments:**

    - `max_batch_size`: jobs that are given to the launcher at once; `None` is all.
    - `params`: values to sweep over by key, as on the command line, which replaces them.
    """

    def sweep(self, arguments: list[str]) -> Any:
        from rnnlab.sweeps.jobs import Jobs, begin, conclude, going_on
        from rnnlab.utils.errors import require

        with going_on(self.config) as folder:
            jobs = Jobs(self.launcher, self.hydra_context, self.config)
            overrides = parse(self.params, arguments, self.hydra_context)
            for override in overrides:
                discrete = not override.is_sweep_override() or override.is_discrete_sweep()
                require(discrete, f"{override.input_line}: only a search chooses from an interval. Add sweep=optuna.")
            (every,) = self.split_arguments(overrides, None)
            wanted = list({tuple(sorted(job)): list(job) for job in every}.values())  # each once
            jobs.check(wanted)
            begin(folder, len(wanted), jobs.finished(wanted))
            size = self.max_batch_size or len(wanted)
            for start in range(0, len(wanted), size):
                jobs.run(wanted[start : start + size])
            conclude(folder, wanted)


class Optuna(BasicSweeper):
    """A search by Optuna: after each trial, or batch of them, the next is chosen by what the others found.

    **Arguments:** as for `rnnlab.sweeps.search.search`, and

    - `storage`: URL of a database; `None` is `optuna.db` in the sweep's folder.
    - `params`: what to search over by key, as on the command line, which replaces them.
    """

    def __init__(self, params: dict[str, str], storage: str | None, **settings: Any):
        super().__init__(None, params)
        self.storage = storage
        self.settings = settings

    def sweep(self, arguments: list[str]) -> Any:
        from rnnlab.sweeps.jobs import Jobs, conclude, going_on
        from rnnlab.utils.errors import require

        needed = 'sweep=optuna needs a package: pip install "rnnlab[sweep]", in a clone -e ".[sweep]".'
        require(find_spec("optuna") is not None, needed)
        from rnnlab.sweeps.search import database, search

        config: Any = self.config
        with going_on(config) as folder:
            overrides = parse(self.params, arguments, self.hydra_context)
            jobs = Jobs(self.launcher, self.hydra_context, config)
            direction = "minimize" if config.mode == "min" else "maximize"
            place = {"storage": self.storage or database(folder), "monitor": config.monitor}
            settings = {**self.settings, "sampler": instantiate(self.settings["sampler"])}
            search(jobs, overrides, direction, **place, **settings)
            conclude(folder, advice="They count as trials: hydra.sweeper.n_trials=N makes more of them.")


def parse(params: dict[str, str], arguments: list[str], context: Any) -> list[Override]:
    """The overrides of a sweep: those of the command line, and `params` for keys that it does not name."""
    parser = OverridesParser.create(config_loader=context.config_loader)
    given = parser.parse_overrides(arguments)
    named = {override.get_key_element() for override in given}
    more = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    return [*(override for override in more if override.get_key_element() not in named), *given]
