"""Series: read from files, split by time, cut into windows."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SERIES

from rnnlab.data.series import SeriesData, WeatherData
from rnnlab.data.waves import WavesData
from rnnlab.tasks.forecaster import Forecaster
from rnnlab.utils.errors import UserError

CELL = {"_target_": "torch.nn.RNN", "hidden_size": 4}
SHORT = {"context": 6, "horizon": 3, "season": 4, "val": 0, "test": 10}


def table(tmp_path, **columns):
    """A file of these columns; `y` counts up unless it is given."""
    length = max((len(column) for column in columns.values()), default=40)
    path = tmp_path / "table.csv"
    pd.DataFrame({"y": np.arange(float(length)), **columns}).to_csv(path, index=False)
    return path


def data_of(path, **arguments):
    data = SeriesData(str(path), **{"target": "y", **SHORT, **arguments})
    data.setup("fit")
    return data


def windows(data, split):
    dataset = data.splits[split]
    batch = dataset[torch.arange(len(dataset))]
    return *batch[:2], *(batch.baseline or ())


def months(number, start="2020-01-01"):
    return pd.date_range(start, periods=number, freq="MS")


@pytest.mark.parametrize("stride", [1, 4])
def test_every_origin_of_the_test_part_is_forecast(stride, tmp_path):
    """For each origin in range(n_train, N - horizon + 1, stride) the values before it give those from it on."""
    data = data_of(table(tmp_path), stride=stride)
    x, y, naive, last, mase_scale = windows(data, "test")
    origins = torch.arange(30, 40 - 3 + 1, stride).float()
    assert torch.equal(x[:, :, 0], origins[:, None] + torch.arange(-6, 0))
    assert torch.equal(y[:, :, 0], origins[:, None] + torch.arange(3))
    assert torch.equal(naive[:, :, 0], origins[:, None] + torch.arange(3) - 4)
    assert torch.equal(last[:, 0, 0], origins - 1)
    assert mase_scale.unique().tolist() == [4.0]  # of a series that rises by 1 a step, 4 steps apart


def test_the_naive_forecast_repeats_the_last_season(tmp_path):
    data = data_of(table(tmp_path), horizon=5, season=2)
    _, y, naive, *_ = windows(data, "test")
    assert torch.equal(naive[0, :, 0], torch.tensor([28.0, 29, 28, 29, 28]))
    assert torch.equal(y[0, :, 0], torch.arange(30.0, 35))


def test_training_windows_end_with_the_training_part(tmp_path):
    """The last of them lack the steps that lie behind it."""
    x, y = windows(data_of(table(tmp_path), val=5), "train")
    assert torch.equal(x[:, :, 0], torch.arange(6.0, 25)[:, None] + torch.arange(-6, 0))
    expected = torch.arange(6.0, 25)[:, None] + torch.arange(3)
    assert torch.equal(y[:, :, 0].nan_to_num(-1), expected.where(expected < 25, -1.0))


def test_parts_are_shares_or_steps(tmp_path):
    path = table(tmp_path)
    for val, test in ((0.25, 0.25), (10, 10), (0.25, 10)):
        data = data_of(path, val=val, test=test)
        assert windows(data, "val")[1][:, 0].min() == 20
        assert windows(data, "val")[1].max() == 29
        assert windows(data, "test")[1][:, 0].min() == 30
    assert list(data_of(path, val=0, test=0).splits) == ["train"]


def test_what_is_fitted_is_fitted_on_the_training_part(tmp_path):
    y, extra = np.random.default_rng(0).random((2, 40)) + 1
    changed, other = y.copy(), extra.copy()
    changed[25:], other[25:] = -1e6, 1e6
    splits = []
    for values, more in ((y, extra), (changed, other)):
        data = data_of(table(tmp_path, y=values, z=more), val=5, covariates=["z"])
        splits.append((data.spec, *windows(data, "train"), data.splits["val"].mase_scale))
    assert splits[0][0] == splits[1][0]
    for one, another in zip(splits[0][1:], splits[1][1:], strict=True):
        assert torch.equal(one.nan_to_num(), another.nan_to_num())


def test_windows_are_views_of_one_table(tmp_path):
    data = data_of(SERIES, target="sales", time="month", series_id="shop")
    values = data.panel.values
    assert values.dtype == torch.float32
    assert all(dataset.panel.values.data_ptr() == values.data_ptr() for dataset in data.splits.values())
    assert sum(dataset.origins.numel() for dataset in data.splits.values()) <= len(values)


def test_series_of_a_long_table_may_be_mixed(tmp_path):
    frame = pd.read_csv(SERIES)
    mixed = tmp_path / "mixed.csv"
    frame.sort_values("month", kind="stable").to_csv(mixed, index=False)
    one, other = (data_of(path, target="sales", time="month", series_id="shop", test=24) for path in (SERIES, mixed))
    assert one.panel.names == other.panel.names == ["north", "south"]
    for split in ("train", "test"):
        for a, b in zip(windows(one, split), windows(other, split), strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num())
    x, y, *_ = windows(one, "test")
    assert len(x) == 2 * (24 - 3 + 1)
    south = frame[frame.shop == "south"].sales.to_numpy(dtype=np.float32)
    assert np.array_equal(y[22:, 0, 0], south[96 : 96 + 22])
    assert np.array_equal(x[22, :, 0], south[90:96])


def test_series_of_different_lengths_are_split_each_by_its_own_end(tmp_path):
    names = np.repeat(["a", "b"], [40, 30])
    data = data_of(table(tmp_path, y=np.arange(70.0), id=names), series_id="id")
    y = windows(data, "test")[1][:, 0, 0].tolist()
    assert y == [*range(30, 38), *range(60, 68)]


def test_covariates_and_what_is_known_ahead(tmp_path):
    known, ahead = np.arange(40.0) * 2, np.arange(40.0) ** 2
    data = data_of(table(tmp_path, known=known, ahead=ahead), covariates=["known"], future_covariates=["ahead"])
    assert data.spec.input_size == 4
    x, _, *_ = windows(data, "test")
    train = np.stack((known, ahead), 1)[:30]
    for number, origin in enumerate(range(30, 38)):
        past = np.arange(origin - 6, origin)
        expected = (np.stack((known, ahead), 1)[past] - train.mean(0)) / train.std(0)
        np.testing.assert_allclose(x[number, :, 1:3], expected, rtol=1e-5, atol=1e-5)
        expected = (ahead[past + 3] - train[:, 1].mean()) / train[:, 1].std()
        np.testing.assert_allclose(x[number, :, 3], expected, rtol=1e-5, atol=1e-5)


def test_the_calendar_is_known_ahead(tmp_path):
    data = data_of(table(tmp_path, day=pd.date_range("2024-01-01", periods=40)), time="day", calendar=["day_of_week"])
    x, *_ = windows(data, "test")
    assert x.shape[-1] == 1 + 2 * 2
    sine, cosine = x[..., 1], x[..., 2]
    torch.testing.assert_close(x[0, :, 1], x[7, :, 1])  # a week later
    assert torch.unique((sine * 1e3).round()).numel() == 7
    torch.testing.assert_close(x[:, 3:, 1], x[:, :3, 3])  # three steps later
    torch.testing.assert_close(x[:, 3:, 2], x[:, :3, 4])
    assert not torch.equal(sine, cosine)


def test_a_parquet_file_is_the_csv_file(tmp_path):
    frame = pd.read_csv(SERIES, parse_dates=["month"])
    for name, stored in (("plain", frame), ("indexed", frame.set_index("month"))):
        stored.to_parquet(tmp_path / f"{name}.parquet")
        one, other = (
            data_of(path, target="sales", time="month", series_id="shop")
            for path in (SERIES, tmp_path / f"{name}.parquet")
        )
        assert torch.equal(one.panel.values.nan_to_num(), other.panel.values.nan_to_num())
        assert one.panel.freq == other.panel.freq == "MS"
        assert (one.panel.times == other.panel.times).all()


@pytest.mark.parametrize(
    ("freq", "start", "following"),
    [
        ("MS", "2020-01-01", ["2023-05-01", "2023-06-01", "2023-07-01"]),
        ("ME", "2020-01-31", ["2023-05-31", "2023-06-30", "2023-07-31"]),
        ("QS", "2010-01-01", ["2020-01-01", "2020-04-01", "2020-07-01"]),
        ("B", "2024-01-01", ["2024-02-26", "2024-02-27", "2024-02-28"]),
        ("W-WED", "2024-01-03", ["2024-10-09", "2024-10-16", "2024-10-23"]),
        ("h", "2024-01-01", ["2024-01-02T16", "2024-01-02T17", "2024-01-02T18"]),
        ("15min", "2024-01-01", ["2024-01-01T10:00", "2024-01-01T10:15", "2024-01-01T10:30"]),
        ("YS", "1950-01-01", ["1990-01-01", "1991-01-01", "1992-01-01"]),
    ],
)
def test_times_go_on_by_the_frequency(freq, start, following, tmp_path):
    data = data_of(table(tmp_path, time=pd.date_range(start, periods=40, freq=freq)), time="time")
    after = data.panel.times[int(data.panel.end[0]) :]
    assert (after == np.array(following, dtype="datetime64[ns]")).all()


def test_numbers_as_times(tmp_path):
    data = data_of(table(tmp_path, year=np.arange(1700, 1740)), time="year")
    assert data.panel.times[-4:].tolist() == [1739, 1740, 1741, 1742]
    assert data_of(table(tmp_path)).panel.times[-4:].tolist() == [40, 41, 42, 43]


def test_time_zones_become_utc(tmp_path):
    local = pd.date_range("2024-03-30", periods=40, freq="h", tz="Europe/Berlin")  # over a change of the clocks
    data = data_of(table(tmp_path, time=local.astype(str)), time="time")
    assert data.panel.times[0] == np.datetime64("2024-03-29T23:00")
    assert data.panel.freq == "h"


def test_uneven_times_are_told_and_count_as_steps(tmp_path, capsys):
    days = pd.to_datetime("2024-01-01") + pd.to_timedelta(np.arange(40) ** 2 // 7 + np.arange(40), unit="D")
    data = data_of(table(tmp_path, time=days), time="time")
    assert "not evenly spaced" in capsys.readouterr().out
    assert torch.equal(data.panel.values[:40, 0], torch.arange(40.0))
    assert (np.diff(data.panel.times[39:]) > np.timedelta64(0)).all()


def holes(tmp_path, gap=(10, 11, 12), empty=20):
    """Forty days that count up, three of them missing as rows and one as a cell."""
    frame = pd.DataFrame({"day": pd.date_range("2024-01-01", periods=40), "y": np.arange(40.0)})
    frame.loc[empty, "y"] = np.nan
    path = tmp_path / "holes.csv"
    frame.drop(list(gap)).to_csv(path, index=False)
    return path


def test_gaps_are_refused_with_their_rows(tmp_path):
    with pytest.raises(UserError) as raised:
        data_of(holes(tmp_path), time="day")
    message = str(raised.value)
    assert "after row 10 the times 2024-01-11 to 2024-01-13 are missing" in message
    assert "row 18: y is empty" in message
    assert "data.fill=linear" in message


def test_gaps_are_filled(tmp_path):
    path = holes(tmp_path)
    linear = data_of(path, time="day", fill="linear").panel.values[:40, 0]
    torch.testing.assert_close(linear, torch.arange(40.0))
    before = data_of(path, time="day", fill="ffill").panel.values[:40, 0]
    expected = torch.arange(40.0)
    expected[10:13], expected[20] = 9.0, 19.0
    torch.testing.assert_close(before, expected)


def test_no_forecast_looks_over_a_gap(tmp_path):
    """A line through a gap knows the value behind it; a value from before it does not."""
    path = holes(tmp_path, gap=(28, 29, 30, 31))
    data = data_of(path, time="day", fill="linear")
    assert windows(data, "train")[1].nan_to_num(0).max() == 27
    assert windows(data, "test")[0][0, :, 0].tolist() == [27, 28, 29, 30, 31, 32]
    other = data_of(path, time="day", fill="ffill")
    assert windows(other, "test")[0][0, :, 0].tolist() == [24, 25, 26, 27, 27, 27]


def test_what_is_filled_is_neither_learnt_nor_scored(tmp_path):
    for fill in ("linear", "ffill"):
        data = data_of(holes(tmp_path, gap=(10, 11, 33)), time="day", fill=fill)
        known = set(range(40)) - {10, 11, 20, 33}
        for split, start in (("train", 6), ("test", 30)):
            y = windows(data, split)[1]
            told = {int(value) for value in y[~y.isnan()]}
            assert told == {step for step in known if start <= step < (30 if split == "train" else 40)}


@pytest.mark.parametrize("start", [19, 28, 30])
def test_gaps_that_leave_a_part_empty(start, tmp_path):
    with pytest.raises(UserError, match="its gaps are too long"):
        data_of(holes(tmp_path, gap=range(start, 38), empty=2), time="day", fill="linear", context=18, test=10)


def test_a_series_ends_with_its_last_known_value(tmp_path):
    data = data_of(table(tmp_path, y=[*range(35), *[np.nan] * 5]), fill="linear")
    assert data.panel.end[0] == 35


def test_gaps_everywhere_are_gaps(tmp_path):
    """No stretch of ten rows without one tells the step."""
    days = pd.date_range("2024-01-01", periods=60)
    weekdays = pd.bdate_range("2024-01-01", periods=60)
    for times, freq, left_out in (
        (days, "D", np.arange(60) % 5 == 4),
        (weekdays, "B", weekdays.day_of_week == 2),
        (pd.date_range("2024-01-01", periods=60, freq="h"), "h", np.arange(60) % 5 == 4),
        (months(60) + pd.Timedelta("14D"), None, np.arange(60) % 5 == 4),
        (pd.date_range("2000-01-31", periods=60, freq="ME"), "ME", np.arange(60) % 5 == 4),
    ):
        frame = pd.DataFrame({"day": times, "y": np.arange(60.0)})[~left_out]
        frame.to_csv(tmp_path / "gaps.csv", index=False)
        with pytest.raises(UserError, match="missing"):
            data_of(tmp_path / "gaps.csv", time="day")
        panel = data_of(tmp_path / "gaps.csv", time="day", fill="linear").panel
        assert panel.end[0] == len(times) - left_out[-1]
        assert (panel.times[: panel.end[0]] == times[: panel.end[0]]).all()
        if freq:
            assert panel.freq == freq
    uneven = pd.to_datetime("2024-01-01") + pd.to_timedelta(np.arange(40) ** 2, unit="D")
    with pytest.raises(UserError, match=r"data\.fill=ffill needs times that are even"):
        data_of(table(tmp_path, time=uneven), time="time", fill="ffill")


@pytest.mark.parametrize(
    ("cells", "dayfirst", "first", "second"),
    [
        (months(40).strftime("%Y%m").astype(int), False, "2020-01-01", "2020-02-01"),
        (pd.date_range("2024-01-30", periods=40).strftime("%Y%m%d").astype(int), False, "2024-01-30", "2024-01-31"),
        (months(40).strftime("%d/%m/%Y"), True, "2020-01-01", "2020-02-01"),
        (months(40).strftime("%m/%d/%Y"), False, "2020-01-01", "2020-02-01"),
        (months(40).strftime("%Y-%m-%d"), True, "2020-01-01", "2020-02-01"),
        (pd.date_range("2024-01-12", periods=40).strftime("%d.%m.%Y"), None, "2024-01-12", "2024-01-13"),
        (pd.date_range("2024-01-12", periods=40).strftime("%m/%d/%Y"), None, "2024-01-12", "2024-01-13"),
        (pd.date_range("2024-01-01", periods=40, freq="12h").astype(str).str.removesuffix(" 00:00:00"), False,
         "2024-01-01", "2024-01-01T12"),
        (pd.period_range("2020-01", periods=40, freq="Q").astype(str), False, "2020-01-01", "2020-04-01"),
    ],
)  # fmt: skip
def test_ways_to_write_a_date(cells, dayfirst, first, second, tmp_path):
    data = data_of(table(tmp_path, when=np.array(cells)), time="when", dayfirst=dayfirst)
    assert (data.panel.times[:2] == np.array([first, second], dtype="datetime64[ns]")).all()


def test_dialects_of_csv(tmp_path):
    rows = [f"{n};{'NA' if n < 40 else '007'};{n * n}" for n in range(80)]
    for sep, start in ((";", ""), ("\t", ""), (",", "\ufeff")):
        path = tmp_path / "dialect.csv"
        path.write_text(start + "\n".join(['t; shop; y; "a, b"', *rows]).replace(";", sep), encoding="utf-8")
        data = data_of(path, series_id="shop")
        assert data.panel.names == ["NA", "007"]
        assert data.panel.values[:3, 0].tolist() == [0, 1, 4]


def test_weather_needs_no_file():
    data = WeatherData(target=["temp_max", "temp_min"], covariates=["wind"], calendar=["day_of_year"], **SHORT)
    data.setup("fit")
    assert len(data.panel.values) == 4 * 365 + 1 + 3
    assert data.panel.freq == "D"
    assert data.spec.targets == ("temp_max", "temp_min")
    assert data.spec.input_size == 3 + 2 * 2


def test_waves_need_no_file():
    data = WavesData(num_series=3, length=100, context=10, horizon=5)
    data.setup("fit")
    assert windows(data, "train")[0].shape == (3 * (70 - 10), 10, 1)
    assert windows(data, "test")[0].shape == (3 * 11, 10, 1)
    with pytest.raises(UserError, match=r"data\.context=4 is too short"):
        WavesData(context=4)


def test_swings_that_grow_with_the_level_are_noticed(tmp_path):
    t = np.arange(144)
    season = 1 + 0.2 * np.sin(2 * np.pi * t / 12)
    long = {"context": 24, "horizon": 10, "season": 12}
    level = 100 + t
    for values, grows in ((level * season, True), (level + 20 * season, False), (level * season - 200, False)):
        data = data_of(table(tmp_path, y=values), **long)
        assert data.spec.grows == (grows,)
        assert Forecaster(CELL, {}, data.spec.as_dict()).scaler.log.tolist() == [grows]


@pytest.mark.parametrize(("power", "grows"), [(0.45, False), (0.55, True)])
def test_a_logarithm_is_taken_where_swings_grow_with_more_than_the_root_of_the_level(power, grows, tmp_path):
    t = np.arange(144)
    level = 100 * 1.5 ** (t // 12)  # steady within a season
    swings = 3 * np.sin(2 * np.pi * t / 12) * level**power
    data = data_of(table(tmp_path, y=level + swings), context=24, horizon=12, season=12, val=12, test=12)
    assert data.spec.grows == (grows,)


# what a user gets wrong


@pytest.fixture
def refused(script, tmp_path):
    """The one message of a run that does not start."""

    def call(path, *overrides):
        small = ("data.context=6", "data.horizon=3", "data.val=0", "data.test=10", "callbacks=none", "logger=none")
        what = ("model=forecaster", "data=series", f"data.path={path}", "data.target=y")
        result = script("train", *what, *small, *overrides, check=False)
        assert result.returncode == 1, result.stdout
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    return call


def test_a_missing_file(refused, tmp_path):
    assert f"data.path={tmp_path}/none.csv: there is no such file" in refused(tmp_path / "none.csv")


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_a_missing_column(name, refused, tmp_path):
    frame = pd.DataFrame({"y": np.arange(40.0), "month": months(40)})
    (frame.to_csv if name.endswith("csv") else frame.to_parquet)(tmp_path / name)
    for key in ("data.target=sales", "data.time=sales", "data.series_id=sales", "data.covariates=[sales]"):
        message = refused(tmp_path / name, key)
        assert "has no column sales. It has: " in message
        assert "y, month" in message


def test_a_file_that_is_no_table(refused, tmp_path):
    (tmp_path / "noise.parquet").write_bytes(bytes(range(256)))
    (tmp_path / "noise.csv").write_bytes(bytes(range(256)))
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("y\n")
    assert "does not begin with the names of its columns" in refused(tmp_path / "empty.csv")
    assert "cannot be read as a table" in refused(tmp_path / "noise.parquet")
    assert "byte 128 (0x80) is not UTF-8. Save it as UTF-8." in refused(tmp_path / "noise.csv")
    assert "has no rows" in refused(tmp_path / "header.csv")


def test_cells_that_are_no_numbers(refused, tmp_path):
    values = np.arange(40.0).astype(object)
    values[[6, 9]] = "many", "1,5"
    assert "y holds what is no number: row 7: many, row 10: 1,5." in refused(table(tmp_path, y=values))


def test_empty_and_infinite_cells(refused, tmp_path):
    values = np.arange(40.0)
    values[[6, 9]] = np.nan
    message = refused(table(tmp_path, y=values))
    assert "row 7: y is empty; row 10: y is empty." in message
    assert "data.fill=" in message
    values[[6, 9]] = np.inf, 1e39  # too large for the network's numbers
    assert "y is infinite in rows 7, 10." in refused(table(tmp_path, y=values), "data.fill=linear")


def test_times_that_do_not_rise(refused, tmp_path):
    month = months(40).to_series()
    twice, earlier, none = month.copy(), month.copy(), month.astype(str)
    twice.iloc[5], earlier.iloc[5], none.iloc[5] = month.iloc[4], month.iloc[3] - pd.Timedelta("1D"), "soon"
    assert "row 6 (2020-05-01) has the time of row 5" in refused(table(tmp_path, m=twice.values), "data.time=m")
    assert "row 6 (2020-03-31) is earlier than row 5" in refused(table(tmp_path, m=earlier.values), "data.time=m")
    assert "m holds what is no time: row 6: soon" in refused(table(tmp_path, m=none.values), "data.time=m")


def test_a_table_with_more_cells_than_names(refused, tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text("y,z\n" + "\n".join(f"{n},{n},7" for n in range(40)))
    assert "Expected 2 fields in line 2, saw 3" in refused(path)
    path.write_text("y,z\n" + "\n".join(f"{n},{n}" for n in range(40)) + "\n40,5,7\n")
    assert "Expected 2 fields in line 42, saw 3" in refused(path)
    path.write_text("y,z,y\n" + "\n".join(f"{n},{n},7" for n in range(40)))
    assert "more than one column y" in refused(path)


def test_dates_that_could_be_read_in_two_ways(refused, tmp_path):
    path = table(tmp_path, day=months(40).strftime("%d/%m/%Y"))
    assert "set data.dayfirst=true or false" in refused(path, "data.time=day")
    assert "day holds what is no time: row 1: Jan-20" in refused(
        table(tmp_path, day=months(12).strftime("%b-%y")), "data.time=day"
    )


def test_filling_more_than_there_is(refused, tmp_path):
    path = table(tmp_path, t=[*range(30), *range(100, 110)])
    message = refused(path, "data.time=t", "data.fill=linear")
    assert "more steps would be filled, 70, than there are rows. Is t read as it is meant?" in message


def test_values_that_32_bits_cannot_hold(refused, tmp_path):
    data_of(table(tmp_path, y=np.full(40, 9.99)))
    data_of(table(tmp_path, y=np.repeat([9.99, 10.49], 20)))
    message = refused(table(tmp_path, y=1e9 + np.sin(np.arange(40))))
    assert "subtract a constant from it" in message


def test_times_of_another_world(refused, tmp_path):
    far = np.arange(40)
    far[-1] = 10**13
    assert "not evenly spaced" in refused(table(tmp_path, t=far), "data.time=t", "data.fill=linear")
    assert "t holds what is no time: row 40: inf" in refused(table(tmp_path, t=[*range(39), np.inf]), "data.time=t")


def test_a_series_that_is_too_short(refused, tmp_path):
    message = refused(table(tmp_path, y=np.arange(18.0)))
    assert "has 18 steps" in message
    assert "gets 8 and needs 9" in message
    path = table(tmp_path, y=np.arange(58.0), id=np.repeat(["a", "b"], [40, 18]))
    assert "Series b has 18 steps" in refused(path, "data.series_id=id")
    data_of(table(tmp_path, y=np.arange(19.0)), season=1)


def test_sizes_that_do_not_fit(refused, tmp_path):
    path = table(tmp_path)
    assert "data.horizon=0 must be a whole number, 1 or more" in refused(path, "data.horizon=0")
    assert "model.patch=4 does not divide data.context=6; 1, 2, 3, 6 do." in refused(path, "model.patch=4")
    assert "data.val=1.5 must be a share" in refused(path, "data.val=1.5")
    assert "data.val=0.5 and data.test=0.5 leave nothing" in refused(path, "data.val=0.5", "data.test=0.5")
    assert "data.test=2 is shorter than data.horizon=3" in refused(path, "data.test=2")
    assert "model.quantiles=[0.9,0.1] must be numbers between 0 and 1, rising, 0.5 among them" in refused(
        path, "model.quantiles=[0.9,0.1]"
    )


def test_options_that_do_not_fit(refused, tmp_path):
    path = table(tmp_path, x=np.arange(40.0))
    assert "data.calendar=['month'] needs dates" in refused(path, "data.calendar=[month]")
    assert "column x more than once" in refused(path, "data.covariates=[x]", "data.future_covariates=[x]")
    assert "model.log=true needs targets that are positive" in refused(path, "model.log=true")
    assert "leave out covariates" in refused(path, "model.head=recursive", "data.covariates=[x]")
    assert "cell.bidirectional=true" in refused(path, "model.head=recursive", "cell.bidirectional=true")
    assert "one step at a time" in refused(path, "model.head=recursive", "model.patch=2")


def test_without_pandas(refused, tmp_path, script):
    """A minimal installation trains on waves, and says what reading files needs."""
    (tmp_path / "pandas.py").write_text("raise ImportError")
    result = script("train", "model=forecaster", "data=series", f"data.path={SERIES}", "data.target=y", check=False,
                    PYTHONPATH=str(tmp_path))  # fmt: skip
    assert 'pip install "rnnlab[data]"' in result.stderr
    assert script("train", "model=forecaster", "data=waves", "debug=fast", PYTHONPATH=str(tmp_path)).metrics
