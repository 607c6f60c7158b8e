"""Series: read from files, split by time, cut into windows."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SERIES, composed
from hydra.errors import InstantiationException

from rnnlab.config.messages import explain
from rnnlab.data.series import SeriesData
from rnnlab.tasks.forecaster import Forecaster
from rnnlab.training.dry_run import check_run
from rnnlab.training.trainer import make_parts
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
        ("B", "2024-01-01", ["2024-02-26", "2024-02-27", "2024-02-28"]),
        ("W-WED", "2024-01-03", ["2024-10-09", "2024-10-16", "2024-10-23"]),
        ("h", "2024-01-01", ["2024-01-02T16", "2024-01-02T17", "2024-01-02T18"]),
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
    assert "has gaps, which begin at 2024-01-11 (after row 10), 2024-01-21 (after row 17)." in message
    assert "data.fill=linear" in message


@pytest.mark.parametrize("fill", ["linear", "ffill"])
def test_gaps_are_filled_as_pandas_fills_them(fill, tmp_path):
    random = np.random.default_rng(0)
    names, times = np.repeat(["b", "a"], 40), np.concatenate((months(40), months(40, "2021-03-01")))
    frame = pd.DataFrame({"id": names, "m": times, "y": random.random(80), "z": random.random(80)})
    frame.loc[[5, 50, 51], "y"] = frame.loc[[6, 39], "z"] = np.nan
    frame = frame.drop([20, 21, 60])
    frame.sort_values("m", kind="stable").to_csv(tmp_path / "gaps.csv", index=False)
    panel = data_of(tmp_path / "gaps.csv", time="m", series_id="id", covariates=["z"], fill=fill).panel
    assert panel.names == ["b", "a"]
    for name, first, end in zip("ba", panel.first, panel.end, strict=True):
        even = frame[frame.id == name].set_index("m")[["y", "z"]].asfreq("MS")
        expected = even.interpolate() if fill == "linear" else even.ffill()
        np.testing.assert_allclose(panel.values[first:end, 0], expected.y, rtol=1e-6)
        assert (panel.times[first:end] == expected.index).all()
        assert panel.filled[first:end, 0].tolist() == even.y.isna().tolist()
        z = panel.values[first:end, 1].double().numpy()  # standardised
        np.testing.assert_allclose(np.corrcoef(z, expected.z)[0, 1], 1, rtol=1e-6)


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
        with pytest.raises(UserError, match="has gaps"):
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
        (months(40).strftime("%d/%m/%Y"), True, "2020-01-01", "2020-02-01"),
        (pd.date_range("2024-01-12", periods=40).strftime("%d.%m.%Y"), None, "2024-01-12", "2024-01-13"),
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
def refused():
    """The one message of a run that does not start."""

    def call(path, *overrides):
        small = ("data.context=6", "data.horizon=3", "data.val=0", "data.test=10")
        what = ("name=any", "model=forecaster", "data=series", f"data.path={path}", "data.target=y")
        cfg = composed(*what, *small, *overrides)
        with pytest.raises((UserError, InstantiationException)) as raised:  # noqa: PT012
            check_run(cfg)
            make_parts(cfg)
        message = explain(raised.value)
        assert "\n" not in message
        return message

    return call


def test_a_file_that_is_no_table(refused, tmp_path):
    for name, content, words in (
        ("noise.csv", bytes(range(256)), "'utf-8' codec can't decode byte 0x80 in position 128"),
        ("empty.csv", b"", "No columns to parse from file"),
        ("wide.csv", b"y,z\n" + b"1,1,7\n" * 40, "Expected 2 fields in line 2, saw 3"),
        ("twice.csv", b"y,z,y\n" + b"1,1,7\n" * 40, "column y more than once"),
    ):
        (tmp_path / name).write_bytes(content)
        assert words in refused(tmp_path / name)


def faulty(values, *faults):
    """The values as objects with some replaced, the first of them in row 7."""
    values = np.array(values, dtype=object)
    values[6 : 6 + len(faults)] = faults
    return values


NUMBERS, MONTHS = np.arange(40.0), months(40).astype(str)


@pytest.mark.parametrize(
    ("columns", "overrides", "words"),
    [
        ({"y": faulty(NUMBERS, "many", "1,5")}, (), "y has cells that are not numbers: row 7 (many), row 8 (1,5)."),
        ({"y": faulty(NUMBERS, np.nan, np.nan)}, (), "has gaps, which begin at 7 (after row 6). Complete the file, or"),
        ({"y": faulty(NUMBERS, "inf", 1e39)}, ("data.fill=linear",), "has infinite cells: row 7 (inf), row 8 (1e+39)."),
        ({"t": NUMBERS[::-1]}, ("data.time=t",), "not later than the one before: row 2 (38.0)"),
        ({"m": faulty(MONTHS, "2020-06-01")}, ("data.time=m",), "not later than the one before: row 7 (2020-06-01)"),
        ({"m": faulty(MONTHS, "soon")}, ("data.time=m",), "m has cells that are not dates: row 7 (soon)."),
        ({"m": months(40).strftime("%d/%m/%Y")}, ("data.time=m",), "set data.dayfirst=true or false"),
        ({"y": 1e9 + np.sin(NUMBERS)}, (), "subtract a constant from it"),
        ({"i": faulty(NUMBERS, None)}, ("data.series_id=i",), "i has empty cells: row 7."),
        ({"t": NUMBERS}, ("data.time=t", "data.calendar=[month]"), "data.calendar=['month'] needs dates"),
        ({}, ("data.time=month",), "has no column month. It has: y."),
        ({}, ("model.log=true",), "model.log=true needs targets that are positive"),
        ({"x": NUMBERS}, ("model.head=recursive", "data.covariates=[x]"), "leave out covariates"),
        ({}, ("data.val=1.5",), "data.val=1.5 must be a share"),
        ({}, ("data.test=2",), "The test split gets 2 and needs 3"),
        ({}, ("model.quantiles=[0.9,0.1]",), "model.quantiles=[0.9,0.1] must be numbers between 0 and 1, rising, 0.5"),
    ],
)  # fmt: skip
def test_columns_and_settings_that_do_not_fit(columns, overrides, words, refused, tmp_path):
    assert words in refused(table(tmp_path, **columns), *overrides)


def test_levels_that_float32_resolves(refused, tmp_path):
    data_of(table(tmp_path, y=np.full(40, 9.99)))
    data_of(table(tmp_path, y=np.repeat([9.99, 10.49], 20)))
    assert "float32" in refused(table(tmp_path, y=1e9 + np.arange(40.0)))


def test_a_series_that_is_too_short(refused, tmp_path):
    message = refused(table(tmp_path, y=np.arange(18.0)))
    assert "has 18 steps" in message
    assert "gets 8 and needs 9" in message
    path = table(tmp_path, y=np.arange(58.0), id=np.repeat(["a", "b"], [40, 18]))
    assert "Series b has 18 steps" in refused(path, "data.series_id=id")
    data_of(table(tmp_path, y=np.arange(19.0)), season=1)
