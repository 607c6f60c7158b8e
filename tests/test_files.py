"""Whatever a file holds, reading it ends in data or in one message: no traceback, no warning, no hang, no memory."""

import io
import os
import resource
import signal
import socket
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
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Group
from rich.table import Table

from rnnlab.commands import cli, generate
from rnnlab.config.messages import explain
from rnnlab.data.spec import SequenceSpec
from rnnlab.data.text import TextData
from rnnlab.data.vocabulary import UNKNOWN
from rnnlab.tasks.char import CharModel
from rnnlab.tasks.plots import draw_confusion
from rnnlab.training import trainer
from rnnlab.training.dry_run import check_run
from rnnlab.utils import files
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UNPRINTABLE, UserError
from rnnlab.utils.figures import save_figure

ROOT = Path(__file__).parents[1]
TIMES = int(os.environ.get("EXAMPLES", "0"))  # by hand: so many times the examples, and others at each start
SECONDS, MEGABYTES = 30, 500  # for one file

# the ways in which a file is read, with small sizes, so that a short one is long enough
SERIES = ("model=forecaster", "data=series", "data.path=P", "data.target=y", "data.context=4", "data.horizon=2",
          "data.season=3", "data.val=0.2", "data.test=0.2")  # fmt: skip
LABELLED = ("model=classifier", "data=labelled", "data.path=P")
TEXT = ("model=char", "data=text", "data.path=P", "data.seq_len=3", "data.batch_size=2")


@cache
def config(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        small = ("name=any", "cell.hidden_size=3", "data.epoch_steps=2")
        return OmegaConf.to_container(compose("train", [*small, *overrides]))


def examples(number):
    """Hypothesis's settings: the same examples at each start, in any order of the tests."""
    return settings(
        max_examples=number * max(1, TIMES),
        derandomize=not TIMES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def counted(ended):
    """Adds `None` to a list if what is within ends well, and the message that a user sees if it does not."""
    told = None
    try:
        yield
    except (UserError, InstantiationException) as error:
        told = explain(error)
    ended.append(told)
    assert told is None or not UNPRINTABLE.search(told), told


def balanced(ended, share):
    """Whether a share of the outcomes is data, and a share messages."""
    number = ended.count(None)
    if TIMES:
        sys.stderr.write(f"{number} of {len(ended)} are data\n")
    return share * len(ended) <= number <= (1 - share) * len(ended)


class LateError(BaseException):
    """Not an `Exception`, which some reader might take for its own."""


@contextmanager
def in_time():
    def late(*_):
        raise LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(ended, content, suffix, overrides, more=None, trained=False, spec=None):
    """What a run makes of a file of these bytes, as `counted`; its data, if there are any.

    The settings `more` come on top; with `trained` a step is trained; with `spec` the data are for a checkpoint.
    """
    cfg = OmegaConf.create(config(*overrides))
    data, said = None, io.StringIO()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder, in_time(), redirect_stdout(said), counted(ended):
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
    assert not UNPRINTABLE.search(said.getvalue().replace("\n", ""))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * MEGABYTES
    return data


def tried(number, strategy, share=0.1):
    """Try `number` cases, arguments of `outcome`; at least a `share` of them is data, and as many are messages."""
    ended = []

    @examples(number)
    @given(strategy)
    def try_one(case):
        outcome(ended, **case)

    try_one()
    assert balanced(ended, share), ended


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
    "x" * 140_000, "1" * 400, "a,b;c\td", "#", "\\", "-0", "+1", "1e5", "1.0.0", "NaT", "Infinity", "007", "2020-13-45",
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
    tried(120, cases(csv_files(), st.just(".csv"), SERIES, series_settings()))


def test_csv_as_labelled_sequences():
    tried(80, cases(csv_files(), st.just(".csv"), LABELLED, labelled_settings))


KINDS = [
    pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_(),
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary(3), pa.date32(), pa.date64(), pa.null(),
    pa.time64("us"), pa.duration("s"), pa.timestamp("s"), pa.timestamp("ns", "Europe/Berlin"), pa.decimal128(38, 10),
    pa.timestamp("us", "../../etc/passwd"), pa.list_(pa.int8()), pa.struct([("y", pa.int8())]), pa.decimal256(76, -4),
    pa.map_(pa.string(), pa.int8()), pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.float64()),
    pa.uuid(), pa.bool8(), pa.json_(),
]  # fmt: skip
EXTREMES = (0, 1, 127, 255, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))


def arrow(values, kind, extreme):
    """An array of this type with these values, as far as they fit, else of nothing; some of its bits set otherwise."""
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    try:
        array = pa.array(values, storage)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        try:
            array = pa.array(range(len(values)), pa.int64()).cast(storage)
        except (pa.ArrowException, NotImplementedError):
            array = pa.nulls(len(values), storage)
    if extreme is not None and pa.types.is_temporal(kind) and storage.bit_width == 64:
        numbers = [extreme, *range(1, len(values))]
        array = pa.array(numbers, pa.int64()).cast(storage)
    return pa.ExtensionArray.from_storage(kind, array) if storage is not kind else array


@st.composite
def parquet_files(draw):
    right = draw(columns())
    table = pa.table({name: pa.array(values) for name, values in right.items()})
    if draw(st.booleans()) and right["t"][0] != 0:
        times = pd.to_datetime(pd.Series(right["t"]).astype(str), format="mixed")
        table = table.set_column(2, "t", pa.array(times.to_numpy().astype("datetime64[us]")))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        k, kind = draw(st.integers(0, table.num_columns - 1)), draw(st.sampled_from(KINDS))
        extreme = draw(st.sampled_from([None, *EXTREMES]))
        name = draw(st.sampled_from([table.column_names[k]] * 4 + NAMES))
        values = list(right.values())[k]
        values = list(map(str, values)) if draw(st.integers(0, 4)) == 0 else list(values)
        if draw(st.integers(0, 2)) == 0:
            values[draw(st.integers(0, len(values) - 1))] = draw(
                st.sampled_from([None, "x", 1e300, -1, "\x1b", b"\xff"])
            )
        array = arrow(values, kind, extreme)
        table = table.set_column(k, name, array)
    if draw(st.integers(0, 3)) == 0:
        said = draw(st.sampled_from([b"", b"[]", b'{"index_columns": ["t"], "columns": []}', b"\x80\x04.", b"{" * 5000,
            b'{"index_columns": [{"kind": "range", "name": "y", "start": 0, "stop": 1000000000000, "step": 1}],'
            b' "columns": [], "column_indexes": []}']))  # fmt: skip
        table = table.replace_schema_metadata({b"pandas": said})
    how = {
        "compression": draw(st.sampled_from(["snappy", "zstd", "gzip", "none"])),
        "row_group_size": draw(st.sampled_from([1, 7, 1000])),
        "use_dictionary": draw(st.booleans()),
        "version": draw(st.sampled_from(["1.0", "2.6"])),
        "data_page_version": draw(st.sampled_from(["1.0", "2.0"])),
    }
    for how_less in (how, {}):
        file = io.BytesIO()
        try:
            pq.write_table(table, file, **how_less)
        except (pa.ArrowException, ValueError, OSError):
            continue
        return file.getvalue()
    return b"PAR1"  # what cannot be written at all


def test_parquet_as_series():
    tried(100, cases(parquet_files(), st.sampled_from([".parquet", ".pq"]), SERIES, series_settings()))


def test_parquet_as_labelled_sequences():
    tried(80, cases(parquet_files(), st.just(".parquet"), LABELLED, labelled_settings))


TYPES = ["<f8", "<f4", "<f2", ">f8", ">i2", "|u1", "|i1", "<i8", ">u8", "|b1", "<U3", ">U2", "|S2", "<c16", "<M8[s]",
         "<f16", "|V4", "|O"]  # fmt: skip
HEADERS = [
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3, 1), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-20, 3, 1), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
    "{'descr': '<f8', 'fortran_order': True, 'shape': (20, 3, 1), }",
    "{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,), }",
    "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (20,), }",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000,), }",
    "{'descr': [('a', '<f8'), ('b', '|O')], 'fortran_order': False, 'shape': (20,), }",
    "{'descr': ('<f8', (3,)), 'fortran_order': False, 'shape': (20,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (20,), }",
    "{'descr': '<f8', 'fortran_order': 3, 'shape': (20L, 3L), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': 20, }",
    "{'descr': __import__('os').system('false'), 'fortran_order': False, 'shape': (20,), }",
    "(" * 3000, "{", "", "\x00", "{'descr': '<f8'}", "[1]",
]  # fmt: skip


def npy(header, content=b"\0" * 480, version=1):
    raw = header.encode("utf-8") + b"\n"
    size = len(raw).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + raw + content


def zipped(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings(action="ignore"):  # names twice
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def saved(array, version=None):
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        np.lib.format.write_array(file, np.asarray(array), version=version)
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
    members = {}
    for name, array in arrays.items():
        version = draw(st.sampled_from([None, None, (2, 0), (3, 0)]))
        members[f"{name}.npy"] = saved(np.asfortranarray(array) if draw(st.booleans()) else array, version)
    twice = []
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        name = draw(st.sampled_from(list(members)))
        fault = draw(st.sampled_from(["type", "type", "shape", "header", "name", "bytes", "value", "twice", "nested"]))
        array = arrays.get(name[:-4], x)
        match fault:
            case "type":
                kind = np.dtype(draw(st.sampled_from(TYPES)))
                with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                    fits = kind.kind not in "VM" and (array.dtype.kind != "U" or kind.kind in "USO")
                    members[name] = saved(array.astype(kind) if fits else np.zeros(array.shape, kind))
            case "shape":
                shapes = [(), (0,), (number,), (number, 0), (1, 2, 3, 4), (number, 1), (number, 3), (number - 1,)]
                members[name] = saved(np.resize(array, draw(st.sampled_from(shapes))))
            case "header":
                members[name] = npy(draw(st.sampled_from(HEADERS)), version=draw(st.sampled_from([1, 2, 3, 9])))
            case "name":
                members[draw(st.sampled_from(["../../x.npy", "/x.npy", "X.npy", "x", "y.NPY", "a\x1bb.npy"]))] = (
                    members.pop(name)
                )
            case "bytes":
                members[name] = draw(st.binary(max_size=200))
            case "value":
                spoilt = np.array(array, dtype=array.dtype if array.dtype.kind == "U" else np.float64)
                value = draw(st.sampled_from([np.nan, np.inf, 1e39, -1, 1e-320, 3e38, 2**53, 7]))
                spoilt.flat[draw(st.integers(0, spoilt.size - 1))] = value
                members[name] = saved(spoilt)
            case "twice":
                twice.append((name, members[name]))
            case "nested":
                members[name] = zipped(members.items())
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    return zipped([*members.items(), *twice], method)


def test_arrays():
    tried(150, cases(npz_files(), st.just(".npz"), LABELLED, st.just({})))


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
    tried(80, cases(texts, st.just(".txt"), TEXT, text_settings))


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
    tried(200, damaged_files())


def test_files_of_anything():
    suffixes = st.sampled_from([".csv", ".parquet", ".npz", ".csv.gz", ".zip", ".pkl", ".xlsx", ".json", ""])
    for overrides, more in ((SERIES, series_settings()), (LABELLED, labelled_settings)):
        tried(40, cases(st.binary(max_size=300), suffixes, overrides, more), share=0)


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
    tried(40, cases(contents, st.just(suffix), overrides, more, spec=st.just(spec)), share=0.05)


@cache
def char_model(vocab):
    size = len(vocab) or 256
    cell = {"_target_": "torch.nn.RNN", "hidden_size": 3}
    return CharModel(cell, {}, SequenceSpec("tokens", size, size, 4, vocab).as_dict()).eval()


def test_texts_to_be_scored(tmp_path, capsys):
    ended = []

    @examples(60)
    @given(texts, st.sampled_from([(), ("a", "b", "\x1b"), (*"ab\r\n", UNKNOWN)]))
    def try_one(content, vocab):
        (tmp_path / "text").write_bytes(content)
        how = SimpleNamespace(score=str(tmp_path / "text"), out=str(tmp_path / "out"), device="cpu")
        with counted(ended):
            generate._score(char_model(vocab), how)

    try_one()
    assert balanced(ended, 0.1)
    assert "\x1b" not in capsys.readouterr().out


# what is none of the files that are read


def refused(overrides, **more):
    """The message of a run with these settings of its data."""
    cfg, ended = OmegaConf.create(config(*overrides)), []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cfg.data = {**cfg.data, **more}
    with in_time(), counted(ended):
        check_run(cfg)
        trainer.make_parts(cfg)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * MEGABYTES
    assert ended[0] is not None
    return ended[0]


@pytest.mark.parametrize("overrides", [SERIES, LABELLED, TEXT], ids=["series", "labelled", "text"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_what_is_no_file(overrides, suffix, tmp_path):
    pipe, device, broken, bound = (tmp_path / f"{name}{suffix}" for name in ("a", "b", "c", "d"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    broken.symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bound))
    for path, words in (
        (pipe, "is not a regular file."),
        (device, "is not a regular file."),
        (bound, "is not a regular file."),
        (broken, "there is no such file."),
        (f"http://127.0.0.1/x{suffix}", "there is no such file."),
        (f"file://{pipe}", "there is no such file."),
        (f"{tmp_path}/*{suffix}", "there is no such file."),
        (f"{tmp_path}/\x1b[31m\n\udcff{suffix}", "there is no such file."),
        (f"~nobody-of-this-name/x{suffix}", "there is no such file."),
    ):
        assert words in refused(overrides, path=str(path))
    if overrides is not TEXT:
        assert "is not a regular file." in refused(overrides, path=str(tmp_path))


def test_names_of_no_file(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, words in (
        ("loop", "Too many levels of symbolic links."),
        ("x" * 9000, "File name too long."),
        ("x\0y", "embedded null byte"),
    ):
        with pytest.raises(UserError, match=f"^data.path.*: {words}"):
            files.open_file(tmp_path / name, "data.path")
        data = TextData(str(tmp_path / name))
        with pytest.raises(UserError, match=words):
            data.setup("fit")


@pytest.mark.skipif(os.getuid() == 0, reason="NOT TESTED: root may read every file")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "a.csv").write_text("y")
    (tmp_path / "a.csv").chmod(0)
    assert "cannot be read: Permission denied." in refused(SERIES, path=str(tmp_path / "a.csv"))


# sizes


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (
            ("model=classifier", "data=random"),
            ("num_train", "num_val", "num_test", "seq_len", "input_size", "output_size"),
        ),
        (("model=classifier", "data=random"), ("batch_size",)),
        (("model=forecaster", "data=waves"), ("num_series", "length", "num_waves", "context", "horizon", "season")),
        (("model=classifier", "data=latch"), ("symbols", "seq_len", "batch_size")),
        (("model=classifier", "data=echo"), ("symbols", "seq_len", "lag")),
        (("model=regressor", "data=adding"), ("seq_len", "batch_size")),
        (("model=char", "data=hello"), ("batch_size",)),
        (("model=char", "data=text", f"data.path={cli.__file__}"), ("batch_size", "seq_len", "min_count")),
        (("model=classifier", "data=digits"), ("batch_size",)),
        (("model=forecaster", "data=weather"), ("context", "season", "test", "val", "batch_size")),
    ],
)
def test_sizes_beyond_memory_take_none(overrides, keys):
    for key in keys:
        for size in (10**12, 2**63 - 1, 10**400):
            message = refused(overrides, **{key: size})
            assert f"{key}=" in message, message


@pytest.mark.parametrize("key", ["epoch_steps", "num_val"])
def test_sizes_that_are_no_memory(key):
    """Batches are made one after the other: an epoch and a part may be of any length."""
    cfg = OmegaConf.create(config("model=classifier", "data=latch"))
    cfg.data = {**cfg.data, key: 10**12}
    data, _ = trainer.make_parts(cfg)
    assert len(next(iter(data.train_dataloader()))[0]) == len(next(iter(data.val_dataloader()))[0]) == 32


def test_memory_is_asked_for(monkeypatch):
    assert 0 < files.available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(files, "available_memory", lambda: 10**9)
    files.require_memory(10**9, "All")
    with pytest.raises(
        UserError, match=r"All take 2.5 GB of memory or more, 1.0 GB are available. Use smaller values."
    ):
        files.require_memory(2_500_000_000, "All")


def parquet(path, times=1, **values):
    """The same rows, again and again."""
    part = pa.table(values)
    with pq.ParquetWriter(path, part.schema, compression="zstd", store_schema=False) as file:
        for _ in range(times):
            file.write_table(part)
    return str(path)


def test_little_that_becomes_much(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "available_memory", lambda: 100 * 2**20)
    path = parquet(tmp_path / "a.parquet", 30, y=pa.array(np.zeros(10**6, np.int8)))
    assert "30,000,000 rows of 1 columns take 0.2 GB of memory" in refused(SERIES, path=path)
    header = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 10000000), }", b"")
    (tmp_path / "a.npz").write_bytes(zipped([("x.npy", header + bytes(240_000_000))], zipfile.ZIP_DEFLATED))
    assert "bytes of x take 0.2 GB of memory" in refused(LABELLED, path=str(tmp_path / "a.npz"))
    rows = (f"{k},0,{k},{k}" for k in range(3000))
    (tmp_path / "a.csv").write_text("\n".join(("sequence_id,time,f,label", *rows)))
    assert "of 3,000 labels is taken for which take 0.1 GB" in refused(LABELLED, path=str(tmp_path / "a.csv"))
    with (tmp_path / "b.csv").open("wb") as file:
        file.truncate(10**12)  # a hole
    assert "take 1,000.0 GB of memory" in refused(SERIES, path=str(tmp_path / "b.csv"))


def test_one_long_text_in_many_rows(tmp_path):
    """It is kept once and looked at once."""
    texts = pa.array(np.zeros(10**4, np.int32)), pa.array(["x" * 10**6])
    path = parquet(tmp_path / "a.parquet", y=np.arange(10.0**4), x=pa.DictionaryArray.from_arrays(*texts))
    for how, words in (
        ({"target": "x"}, "x holds what is no number: row 1: xxx"),
        ({"time": "x"}, "x holds what is no time: row 1: xxx"),
        ({"series_id": "x", "covariates": ["x"]}, "more than once"),
    ):
        assert words in refused(SERIES, path=path, **how)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (["1000-01-01", "1000-01-02", "9999-12-30"], "the times cannot go on"),
        (["2000-01-01", "2000-01-02", "2000-01-03", "9900-01-01"], "not evenly spaced"),
        ([0, 1, 10**9], "not evenly spaced"),
        ([0, 1, 10**19], "t holds what is no time: row 3: 10000000000000000000"),
        ([2**62 - 1, 2**62, 2**62 + 1], "t holds what is no time: row 3"),
        ([0, 1e-320, 1e300], "t holds what is no time: row 3: 1e+300"),
        ([*range(30), 29_000], "more steps would be filled"),
        ([*range(10**5), 999 * 10**5], "from the first time to the last take 1.6 GB"),
        ([True, False], "has to rise"),
    ],
)
def test_times_that_are_far_apart(times, words, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "available_memory", lambda: 100 * 2**20)
    path = tmp_path / "a.csv"
    pd.DataFrame({"t": times, "y": np.arange(len(times)) % 7}).to_csv(path, index=False)
    assert words in refused(SERIES, path=str(path), time="t", fill="linear")


def test_a_text_of_many_characters(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text("".join(map(chr, range(0x10000, 0x40000))), encoding="utf-8", newline="")
    message = refused(TEXT, path=str(path), cache=str(tmp_path / "cache"), batch_size=1000, seq_len=1000)
    assert "x 196,608 signs or features take 1,572.9 GB of memory or more" in message
    assert len(capsys.readouterr().out) < 2000  # not all of those that the training part lacks


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
    assert str(UserError("a\nb", "c" * 5000)) == f"a\\nb\n{'c' * 2000} ... {'c' * 2000}"
    tell("two\r\nlines\tand a tab")
    assert capsys.readouterr().out == "two\nlines   and a tab\n"


def test_a_text_is_escaped_on_a_terminal_only(monkeypatch):
    assert generate._shown("\x1b[31m\n") == "\x1b[31m\n"
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    assert generate._shown("\x1b[31m\n") == "\\x1b[31m\n"


def test_names_that_no_font_has(tmp_path):
    trainer = SimpleNamespace(loggers=[], is_global_zero=True, default_root_dir=tmp_path)
    names = ["日本", "\x1b[31m", "\ud800", "x" * 10**5, "a\nb", "$\\frac{1$"]
    save_figure(trainer, "names", draw_confusion(torch.ones(6, 6), names))
    assert (tmp_path / "figures" / "names.png").exists()
