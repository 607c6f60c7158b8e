"""Whatever a file holds, reading it ends in data or in one message: no traceback and no warning."""

import io
import os
import sys
import tempfile
import warnings
import zipfile
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import composed
from hydra.errors import InstantiationException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Group
from rich.table import Table

from rnnlab.config.messages import explain
from rnnlab.tasks.plots import draw_confusion
from rnnlab.training import trainer
from rnnlab.training.dry_run import check_run
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UNPRINTABLE, UserError
from rnnlab.utils.figures import save_figure

TIMES = int(os.environ.get("EXAMPLES", "0"))  # by hand: so many times the examples, and others at each start

# the ways in which a file is read, with small sizes, so that a short one is long enough
SERIES = ("model=forecaster", "data=series", "data.path=P", "data.target=y", "data.context=4", "data.horizon=2",
          "data.season=3", "data.val=0.2", "data.test=0.2")  # fmt: skip
LABELLED = ("model=classifier", "data=labelled", "data.path=P")
TEXT = ("model=char", "data=text", "data.path=P", "data.seq_len=3", "data.batch_size=2")


@cache
def config(*overrides):
    return OmegaConf.to_container(composed("name=any", "cell.hidden_size=3", "data.epoch_steps=2", *overrides))


@contextmanager
def counted(ended):
    """Adds `None` to a list if what is within ends well, and the message that a user sees if it does not."""
    message = None
    try:
        yield
    except (UserError, InstantiationException) as error:
        message = explain(error)
    ended.append(message)
    assert message is None or not UNPRINTABLE.search(message), message


def outcome(ended, content, suffix, overrides, more=None, trained=False, spec=None):
    """What a run makes of a file of these bytes, as `counted`; its data, if there are any.

    The settings `more` come on top; with `trained` a step is trained; with `spec` the data are for a checkpoint.
    """
    cfg = OmegaConf.create(config(*overrides))
    data, printed = None, io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(printed), counted(ended):
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        cfg.data = {**cfg.data, "path": str(path), **(more or {})}
        if "cache" in cfg.data:
            cfg.data.cache = f"{folder}/cache"
        check_run(cfg)
        if spec is None:
            data, model = trainer.make_parts(cfg)
            loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
        else:
            data = trainer.instantiate(cfg.data)
            data.spec = spec
            data.prepare_data()
            data.setup("test")
            loaders = [data.test_dataloader()]
        for loader in loaders:
            for x, *_ in loader:
                assert torch.isfinite(x).all()
        if trained and spec is None:
            silent = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
            pl.Trainer(max_steps=1, accelerator="cpu", logger=False, **silent).fit(model, datamodule=data)
    assert not UNPRINTABLE.search(printed.getvalue().replace("\n", ""))
    return data


def tried(number, strategy, share=0.1):
    """Try `number` cases, arguments of `outcome`; at least a `share` of them is data, and as many are messages."""
    ended = []

    @settings(
        max_examples=number * max(1, TIMES),
        derandomize=not TIMES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def try_one(case):
        outcome(ended, **case)

    try_one()
    right = ended.count(None)
    if TIMES:
        sys.stderr.write(f"{right} of {len(ended)} are data\n")
    assert share * len(ended) <= right <= (1 - share) * len(ended), ended


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    with warnings.catch_warnings():
        trainer.quiet()
        yield


# files that are nearly right

STRANGE = [
    "", " ", "0", "-1.5", "1e999", "-1e39", "inf", "nan", "NA", "null", "None", "1_000", "1,5", "0x10", "1e-400",
    "true", "99999999999999999999", "9223372036854775807", "-9223372036854775808", "2024-01-01", "01/02/2020",
    "13/01/2020", "0001-01-01", "9999-12-31", "10000-01-01", "2262-04-12", "1677-09-20", "2024-01-01T00:00:00+05:00",
    "20240101", "2024-01-01 00:00:00Z", "24:00", "now", "2024-W05", "=cmd|'/c'!A1", "@x", "\x1b]0;x\x07", "\x1b[31m",
    "[red]x[/]", ":smile:", "{0}", "%s", '"', "'", '"a\nb"', "\x00", "\r", "\u202e", "½", "٣", "日本", "😀",
    "x" * 1000, "1" * 400, "a,b;c\td", "#", "\\", "-0", "+1", "1e5", "1.0.0", "NaT", "Infinity", "007", "2020-13-45",
    "99991231",
]  # fmt: skip
NAMES = [
    "y", "t", "id", "x", "label", "", "y.1", "a.b", "[red]x[/]", "{0}", "\x1b[31m", "index", "0", "None", "nan", "Ω",
    "=1+1", "__index_level_0__", "a\nb", "values", "size", "name", "sequence_id", "T", "columns", "$\\frac{1$",
]  # fmt: skip
cells = st.one_of(st.sampled_from(STRANGE), st.text(max_size=8), st.floats().map(str), st.integers().map(str))


def dates(number, kind):
    starts = {"MS": "2000-01-01", "h": "2024-01-01", "B": "2024-01-01", "YS": "1990-01-01", "D": "2199-01-01"}
    return pd.date_range(starts[kind], periods=number, freq=kind).astype(str).tolist()


@st.composite
def columns(draw):
    """Names and cells of a table of one or two series that is right."""
    number = draw(st.integers(30, 45))
    times = draw(st.sampled_from(["MS", "h", "B", "YS", "D", "numbers", "compact"]))
    t = list(range(number)) if times == "numbers" else dates(number, "D" if times == "compact" else times)
    t = [day.replace("-", "")[:8] for day in t] if times == "compact" else t
    several = draw(st.booleans())
    half = number // 3
    return {
        "id": [f"s{k // 4}" for k in range(number)],
        "series": ["a" if k < half else "b" for k in range(number)] if several else ["a"] * number,
        "t": t,
        "y": [round(10 + 5 * np.sin(k), 3) for k in range(number)],
        "x": [k * k % 17 for k in range(number)],
        "label": [f"c{k // 4 % 2}" for k in range(number)],
    }


def places(draw, table):
    return draw(st.integers(0, len(table) - 1)), draw(st.integers(0, len(table[0]) - 1))


def spoil(draw, table):
    """One fault in a list of rows."""
    row, column = places(draw, table)
    match draw(st.sampled_from(["cell"] * 8 + ["name", "column", "lost", "extra", "twice", "gone", "swap"])):
        case "cell":
            table[row][min(column, len(table[row]) - 1)] = draw(cells)
        case "name":
            table[0][column] = draw(st.sampled_from(NAMES))
        case "column":
            value = draw(cells)
            for line in table[1:]:
                line[min(column, len(line) - 1)] = value
        case "lost":
            table[row] = table[row][:column] or [""]
        case "extra":
            table[row] = [*table[row], draw(cells)]
        case "twice":
            table.insert(row, list(table[row]))
        case "gone" if len(table) > 2:
            del table[row]
        case "swap":
            table[row], table[-1] = table[-1], table[row]


@st.composite
def csv_files(draw):
    right = draw(columns())
    table = [list(right), *(list(map(str, line)) for line in zip(*right.values(), strict=True))]
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        spoil(draw, table)
    sep = draw(st.sampled_from([","] * 8 + [";", "\t", "|"]))
    ends = draw(st.sampled_from([["\n"], ["\n"], ["\r\n"], ["\r"], ["\n", "\r\n"], ["\n\n"], ["\n", " \n"]]))
    quoted = draw(st.booleans())
    lines = (sep.join(f'"{cell}"' if quoted else cell for cell in map(str, line)) for line in table)
    text = "".join(f"{line}{ends[k % len(ends)]}" for k, line in enumerate(lines))
    coding = draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"]))
    return text.encode(coding, "replace" if coding == "latin-1" else "surrogatepass")


@st.composite
def series_settings(draw):
    """Ways to read the columns above."""
    names = st.sampled_from(["x"] * 8 + ["label", "y.1"])
    more = {
        "time": draw(st.sampled_from(["t"] * 8 + [None, "x"])),
        "series_id": draw(st.sampled_from([None, None, "series", "series", "series", "id"])),
        "covariates": draw(st.lists(names, max_size=1)),
        "fill": draw(st.sampled_from([None, "linear", "ffill"])),
        "dayfirst": draw(st.sampled_from([None, True, False])),
    }
    if draw(st.integers(0, 4)) == 0:
        more |= {"future_covariates": [draw(names)], "covariates": []}
    if more["time"] == "t" and draw(st.integers(0, 3)) == 0:
        more["calendar"] = draw(st.lists(st.sampled_from(["hour", "month", "day_of_year"]), min_size=1, unique=True))
    return more


labelled_settings = st.fixed_dictionaries({
    "sequence_id": st.sampled_from(["id", "id", "id", "series", "label", "t"]),
    "time": st.sampled_from(["t", "t", None, "x"]),
    "label": st.sampled_from(["label", "label", "label", "x", "series"]),
    "features": st.sampled_from([["y"], ["y", "x"], ["x", "y"], None, ["label"]]),
})  # fmt: skip


def cases(contents, suffixes, overrides, more, **others):
    return st.fixed_dictionaries({
        "content": contents, "suffix": suffixes, "overrides": st.just(overrides), "more": more,
        "trained": st.integers(0, 9).map(lambda draw: draw == 9), **others,
    })  # fmt: skip


def test_csv_as_series():
    tried(100, cases(csv_files(), st.just(".csv"), SERIES, series_settings()))


def test_csv_as_labelled_sequences():
    tried(60, cases(csv_files(), st.just(".csv"), LABELLED, labelled_settings))


KINDS = [
    pa.int8(), pa.uint8(), pa.int32(), pa.uint64(), pa.float16(), pa.float32(), pa.bool_(), pa.string(), pa.null(),
    pa.large_string(), pa.binary(), pa.date32(), pa.date64(), pa.time64("us"), pa.duration("s"), pa.timestamp("s"),
    pa.timestamp("ns", "Europe/Berlin"), pa.decimal128(38, 10), pa.list_(pa.int8()), pa.struct([("y", pa.int8())]),
    pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.float64()),
]  # fmt: skip


def arrow(values, kind):
    """An array of this type with these values, as far as they fit, else of nothing."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.nulls(len(values), kind)


@st.composite
def parquet_files(draw):
    right = draw(columns())
    table = pa.table({name: pa.array(values) for name, values in right.items()})
    if draw(st.booleans()) and right["t"][0] != 0:
        times = pd.to_datetime(pd.Series(right["t"]).astype(str), format="mixed")
        table = table.set_column(2, "t", pa.array(times.to_numpy().astype("datetime64[us]")))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        k, kind = draw(st.integers(0, table.num_columns - 1)), draw(st.sampled_from(KINDS))
        name = draw(st.sampled_from([table.column_names[k]] * 4 + NAMES))
        values = list(right.values())[k]
        values = list(map(str, values)) if draw(st.integers(0, 4)) == 0 else list(values)
        if draw(st.integers(0, 2)) == 0:
            values[draw(st.integers(0, len(values) - 1))] = draw(st.sampled_from([None, "x", 1e300, -1, "\x1b"]))
        table = table.set_column(k, name, arrow(values, kind))
    file = io.BytesIO()
    pq.write_table(table, file, compression=draw(st.sampled_from(["snappy", "zstd"])), row_group_size=7)
    return file.getvalue()


def test_parquet_as_series():
    tried(60, cases(parquet_files(), st.sampled_from([".parquet", ".pq"]), SERIES, series_settings()))


def test_parquet_as_labelled_sequences():
    tried(50, cases(parquet_files(), st.just(".parquet"), LABELLED, labelled_settings))


TYPES = ["<f8", "<f4", "<f2", ">f8", ">i2", "|u1", "<i8", ">u8", "|b1", "<U3", ">U2", "|S2", "<c16", "<M8[s]", "|O"]


def zipped(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def saved(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array))
    return file.getvalue()


@st.composite
def npz_files(draw):
    number = draw(st.integers(16, 24))
    steps = draw(st.integers(1, 4))
    x = np.arange(number * steps * 2.0).reshape(number, steps, 2) % 7
    arrays = {"x": x, "y": np.arange(number) % 2}
    if draw(st.booleans()):
        arrays["lengths"] = 1 + np.arange(number) % steps
    if draw(st.booleans()):
        arrays["classes"] = np.array(["a", "b"])
    members = {f"{name}.npy": saved(array) for name, array in arrays.items()}
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        name = draw(st.sampled_from(list(members)))
        array = arrays.get(name[:-4], x)
        match draw(st.sampled_from(["type", "type", "shape", "name", "bytes", "value"])):
            case "type":
                kind = np.dtype(draw(st.sampled_from(TYPES)))
                with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                    fits = kind.kind != "M" and (array.dtype.kind != "U" or kind.kind in "USO")
                    members[name] = saved(array.astype(kind) if fits else np.zeros(array.shape, kind))
            case "shape":
                shapes = [(), (0,), (number,), (number, 0), (1, 2, 3, 4), (number, 1), (number, 3), (number - 1,)]
                members[name] = saved(np.resize(array, draw(st.sampled_from(shapes))))
            case "name":
                members[draw(st.sampled_from(["X.npy", "x", "y.NPY", "a\x1bb.npy"]))] = members.pop(name)
            case "bytes":
                members[name] = draw(st.binary(max_size=200))
            case "value":
                spoilt = np.array(array, dtype=array.dtype if array.dtype.kind == "U" else np.float64)
                spoilt.flat[draw(st.integers(0, spoilt.size - 1))] = draw(
                    st.sampled_from([np.nan, np.inf, 1e39, -1, 7])
                )
                members[name] = saved(spoilt)
    return zipped(members.items(), draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])))


def test_arrays():
    tried(80, cases(npz_files(), st.just(".npz"), LABELLED, st.just({})))


texts = st.one_of(
    st.text(min_size=1, max_size=400).map(str.encode),
    st.text(st.characters(codec="utf-8"), min_size=40).map(str.encode),
    st.text("ab\x1b\r\n\u202e\0\ufeff😀", min_size=60, max_size=200).map(str.encode),
    st.binary(min_size=30, max_size=300),
)
text_settings = st.fixed_dictionaries({
    "unit": st.sampled_from(["char", "char", "byte"]), "min_count": st.sampled_from([1, 1, 2, 9]),
    "split": st.sampled_from([[0.6, 0.2, 0.2], [1, 0, 0], [0.9, 0.05, 0.05]]),
})  # fmt: skip


def test_texts():
    tried(60, cases(texts, st.just(".txt"), TEXT, text_settings))


# right files that were damaged, and files of anything


@cache
def right_files():
    t = pd.date_range("2020-01-01", periods=40, freq="MS")
    frame = pd.DataFrame({"t": t, "y": np.sin(np.arange(40)), "x": np.arange(40) % 5})
    frame["id"], frame["label"] = [f"s{k // 4}" for k in range(40)], [f"c{k // 4 % 2}" for k in range(40)]
    plain, indexed = io.BytesIO(), io.BytesIO()
    frame.to_parquet(plain)
    frame.set_index("t").to_parquet(indexed, compression="zstd")
    arrays = {"x": saved(np.arange(120.0).reshape(20, 3, 2)), "y": saved(np.arange(20) % 2)}
    members = [(f"{name}.npy", content) for name, content in arrays.items()]
    series, labels = {"time": "t", "fill": "linear"}, {"sequence_id": "id", "time": "t"}
    return [
        (frame.to_csv(index=False).encode(), ".csv", SERIES, series),
        (frame.to_csv(index=False).encode(), ".csv", LABELLED, labels),
        (plain.getvalue(), ".parquet", SERIES, series),
        (indexed.getvalue(), ".parquet", LABELLED, labels),
        (zipped(members), ".npz", LABELLED, {}),
        (zipped(members, zipfile.ZIP_DEFLATED), ".npz", LABELLED, {}),
        ("naïve Ωmega, 日本語 and 😀\r\n".encode() * 4, ".txt", TEXT, {}),
    ]


@st.composite
def damaged_files(draw):
    content, suffix, overrides, more = draw(st.sampled_from(right_files()))
    content = bytearray(content)
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 4]))):
        # the ends of Parquet files and archives say what is in them
        at = draw(st.one_of(st.integers(0, len(content)), st.integers(max(0, len(content) - 200), len(content))))
        size = draw(st.integers(1, 40))
        match draw(st.sampled_from(["flip", "flip", "flip", "cut", "insert", "repeat", "lose"])):
            case "flip" if at < len(content):
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del content[at:]
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "repeat":
                content[at:at] = content[at : at + size]
            case "lose":
                del content[at : at + size]
    return {"content": bytes(content), "suffix": suffix, "overrides": overrides, "more": more,
            "trained": draw(st.integers(0, 9)) == 9}  # fmt: skip


def test_damaged_files():
    tried(120, damaged_files())


def test_files_of_anything():
    suffixes = st.sampled_from([".csv", ".parquet", ".npz", ".csv.gz", ".zip", ".pkl", ".xlsx", ".json", ""])
    for overrides, more in ((SERIES, series_settings()), (LABELLED, labelled_settings)):
        tried(20, cases(st.binary(max_size=300), suffixes, overrides, more), share=0)


@cache
def spec_of(overrides):
    """What a checkpoint knows of right data."""
    content, suffix, _, more = next(right for right in right_files() if right[2] is overrides)
    named = {"features": ["y", "x"]} if overrides is LABELLED else {}
    return outcome([], content, suffix, overrides, {**more, **named}).spec


@pytest.mark.parametrize(
    ("overrides", "suffix", "contents", "more"),
    [
        (SERIES, ".csv", csv_files(), st.fixed_dictionaries({"time": st.sampled_from(["t", None])})),
        (LABELLED, ".csv", csv_files(), st.fixed_dictionaries({"sequence_id": st.just("id"), "time": st.just("t")})),
        (TEXT, ".txt", texts, text_settings),
    ],
    ids=["series", "labelled", "text"],
)
def test_files_for_a_checkpoint(overrides, suffix, contents, more):
    spec = spec_of(overrides)
    tried(25, cases(contents, st.just(suffix), overrides, more, spec=st.just(spec)), share=0.05)


# what is not a readable file


@pytest.mark.parametrize("overrides", [SERIES, LABELLED, TEXT], ids=["series", "labelled", "text"])
def test_missing_files(overrides, tmp_path):
    for path in (f"{tmp_path}/none.csv", "\x1b[31m\n.csv", "http://127.0.0.1/x.csv", "~nobody-of-this-name/x.csv"):
        cfg, ended = OmegaConf.create(config(*overrides)), []
        cfg.data.path = path
        with counted(ended):
            check_run(cfg)
            trainer.make_parts(cfg)
        assert "there is no such file." in ended[0]


# what is shown


def test_no_text_steers_the_terminal(capsys):
    hostile = "\x1b[31m\x9b2J\u202e[bold]:smile:\ud800\x00"
    table = Table(hostile)
    table.add_row(hostile)
    for content in (hostile, table, Group(table, hostile), UserError(hostile)):
        tell(content if not isinstance(content, UserError) else str(content))
        shown = capsys.readouterr().out
        assert not UNPRINTABLE.search(shown.replace("\n", ""))
        assert r"\x1b[31m\x9b2J\u202e[bold]:smile:\ud800\x00" in shown
    assert str(UserError("a\nb", "c")) == "a\\nb\nc"
    tell("two\r\nlines\tand a tab")
    assert capsys.readouterr().out == "two\nlines   and a tab\n"


def test_names_that_no_font_has(tmp_path):
    trainer = SimpleNamespace(loggers=[], is_global_zero=True, default_root_dir=tmp_path)
    names = ["日本", "\x1b[31m", "\ud800", "x" * 10**5, "a\nb", "$\\frac{1$"]
    save_figure(trainer, "names", draw_confusion(torch.ones(6, 6), names))
    assert (tmp_path / "figures" / "names.png").exists()
