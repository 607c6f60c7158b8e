"""The sweepers of `-m`: a grid, or a search with Optuna. Hydra looks for plugins in this namespace."""

from importlib.util import find_spec
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.utils import instantiate


class Grid(Sweeper):
    """Runs every combination of values; see conf/hydra/sweeper/grid.yaml."""

    hydra_context: Any
    config: Any

    def __init__(self, params: dict[str, str], max_batch_size: int | None = None):
        self.params = params
        self.max_batch_size = max_batch_size

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from rnnlab.sweeps.jobs import Jobs, identity
        from rnnlab.sweeps.sweep import report, start_progress, sweep_folder
        from rnnlab.utils.errors import require

        with sweep_folder(self.config) as folder:
            overrides = self.parse(arguments)
            for override in overrides:
                discrete = not override.is_sweep_override() or override.is_discrete_sweep()
                require(discrete, f"{override.input_line}: only a search chooses from an interval. Add sweep=optuna.")
            choices = [_choices(override) for override in overrides]
            grid = list({identity(list(job)): list(job) for job in product(*choices)}.values())
            jobs = Jobs(self.launcher, self.hydra_context, self.config)
            jobs.check(grid)
            start_progress(folder, len(grid), jobs.num_finished(grid))
            size = self.max_batch_size or len(grid)
            for start in range(0, len(grid), size):
                jobs.run(grid[start : start + size])
            report(folder, grid)

    def parse(self, arguments: list[str]) -> list[Override]:
        """The overrides of the command line, and of `params` for other keys."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = parser.parse_overrides(arguments)
        keys = {override.get_key_element() for override in given}
        more = parser.parse_overrides([f"{key}={value}" for key, value in self.params.items()])
        return [*(override for override in more if override.get_key_element() not in keys), *given]


class Optuna(Grid):
    """Searches for the best values; see conf/hydra/sweeper/optuna.yaml."""

    def __init__(self, params: dict[str, str], storage: str | None, sampler: Any, **settings: Any):
        super().__init__(params)
        self.storage = storage
        self.sampler = sampler
        self.settings = settings

    def sweep(self, arguments: list[str]) -> None:
        from rnnlab.sweeps.jobs import Jobs
        from rnnlab.sweeps.sweep import report, sweep_folder
        from rnnlab.utils.errors import require

        needed = 'sweep=optuna needs a package: pip install "rnnlab[sweep]", in a clone -e ".[sweep]".'
        require(find_spec("optuna") is not None, needed)
        from rnnlab.sweeps.search import database, search

        with sweep_folder(self.config) as folder:
            search(
                Jobs(self.launcher, self.hydra_context, self.config),
                self.parse(arguments),
                direction="minimize" if self.config.mode == "min" else "maximize",
                monitor=self.config.monitor,
                storage=self.storage or database(folder),
                sampler=instantiate(self.sampler),
                **self.settings,
            )
            report(folder, advice="They count as trials: hydra.sweeper.n_trials=N makes more of them.")


def _choices(override: Override) -> list[str]:
    """What an override sets in the jobs of a grid."""
    key = override.get_key_element()
    swept = override.is_sweep_override()
    values = override.sweep_string_iterator() if swept else [override.get_value_element_as_str()]
    return [f"{key}={value}" for value in values]
