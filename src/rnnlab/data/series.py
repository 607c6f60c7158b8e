"""Real series."""

from importlib.util import find_spec
from typing import Any

from rnnlab.data.forecasting import ForecastData
from rnnlab.data.tables import import_pandas, read_panel
from rnnlab.data.windows import Panel
from rnnlab.utils.errors import require
from rnnlab.utils.files import locate


class SeriesData(ForecastData):
    """Series of a file of your own.

    **Arguments:**

    - `path`: a CSV file with a header, or a Parquet file.
    - `target`: the column to be forecast, or several.
    - `time`, `series_id`, `covariates`, `future_covariates`, `calendar`, `dayfirst`, `fill`: see `read_panel`.
    - `split`: see `ForecastData`.

    **Raises:** `UserError` for whatever is wrong with the file, with its rows.
    """

    def __init__(
        self,
        path: str,
        target: str | list[str],
        time: str | None = None,
        series_id: str | None = None,
        covariates: list[str] | None = None,
        future_covariates: list[str] | None = None,
        calendar: list[str] | None = None,
        dayfirst: bool | None = None,
        fill: str | None = None,
        **split: Any,
    ):
        super().__init__(**split)
        require(bool(time) or not calendar, f"data.calendar={calendar} needs dates: data.time=null gives none.")
        self.path = locate(path)
        self.columns = {
            "target": target if isinstance(target, list) else [str(target)],
            "time": None if time is None else str(time),
            "series_id": None if series_id is None else str(series_id),
            "covariates": covariates or [],
            "future_covariates": future_covariates or [],
            "calendar": calendar or [],
            "dayfirst": dayfirst,
            "fill": fill,
        }

    def read(self) -> Panel:
        return read_panel(self.path, horizon=self.horizon, **self.columns)  # type: ignore[arg-type]


class WeatherData(SeriesData):
    """Four years of daily weather in Seattle, which the package vega-datasets carries (NOAA, public domain).

    `precipitation` is in mm, `temp_max` and `temp_min` in degrees Celsius, `wind` in m/s.

    **Arguments:** those of `SeriesData` but `path` and `time`.

    **Raises:** `UserError` if the package is not installed.
    """

    def __init__(self, **columns: Any):
        import_pandas()
        package = find_spec("vega_datasets")
        require(
            package is not None, 'data=weather needs a package: pip install "rnnlab[data]", in a clone -e ".[data]".'
        )
        folder = package.submodule_search_locations[0]  # type: ignore[union-attr, index]
        super().__init__(path=f"{folder}/_data/seattle-weather.csv", time="date", **columns)
