"""What is written from codes is what every reader of Parquet finds."""

import io
from datetime import UTC, date, datetime, timedelta

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transforms import parquet
from transforms.coding import constant, spread
from transforms.parquet import write_file

TIME = pa.timestamp("us", tz="UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
VALUES = {
    pa.bool_(): st.booleans(),
    pa.int32(): st.integers(-(2**31), 2**31 - 1) | st.integers(0, 300),
    pa.int64(): st.integers(-(2**63), 2**63 - 1) | st.integers(2**40, 2**40 + 300),
    pa.date32(): st.dates(date(1970, 1, 1), date(2100, 1, 1)),
    TIME: st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - as asked
    pa.float64(): st.floats(allow_nan=False),
    pa.large_binary(): st.binary(max_size=12),
    pa.large_string(): st.text(max_size=12) | st.sampled_from(["", "one", "\N{SNOWMAN}"]),
}


def whole(rows, nullable=(), rising=(), bounded=()):
    return b"".join(write_file(rows, nullable, bounded, rising))


def read_by_duckdb(content, path):
    path.write_bytes(content)
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        return connection.execute("select * from read_parquet(?)", [str(path)]).fetchall()


@st.composite
def columns(draw, rows):
    """A column of any type, plain or of codes, with nulls or without."""
    kind = draw(st.sampled_from(list(VALUES)))
    distinct = draw(st.lists(VALUES[kind], min_size=1, max_size=6, unique=True))
    is_nullable = draw(st.booleans())
    codes = draw(
        st.lists(st.integers(-1 if is_nullable else 0, len(distinct) - 1), min_size=rows, max_size=rows)
    )
    values = [None if code < 0 else distinct[code] for code in codes]
    if draw(st.booleans()):
        return spread(np.array(codes, np.int64), pa.array(distinct, kind)), values, is_nullable
    return pa.array(values, kind), values, is_nullable


@st.composite
def tables(draw):
    rows = draw(st.integers(0, 40) | st.sampled_from([128, 129, 160, 257]))
    made = draw(st.lists(columns(rows), min_size=1, max_size=5))
    names = [f"c{at}" for at in range(len(made))]
    table = pa.table([one for one, _, _ in made], names)
    return table, {name: values for name, (_, values, _) in zip(names, made, strict=True)}, made


@given(tables())
def test_every_reader_finds_what_was_written(tmp_path_factory, written):
    table, expected, made = written
    nullable = [name for name, (_, _, can_lack) in zip(expected, made, strict=True) if can_lack]
    numbers = [one.name for one in table.schema if one.type in (pa.int32(), pa.int64(), TIME)]
    content = whole(table, nullable, numbers, table.schema.names)
    found = pq.ParquetFile(io.BytesIO(content)).read()
    assert found.to_pydict() == expected
    assert [one.nullable for one in found.schema] == [name in nullable for name in expected]
    assert pl.read_parquet(io.BytesIO(content)).to_dict(as_series=False) == expected
    found_rows = read_by_duckdb(content, tmp_path_factory.mktemp("duckdb") / "x.parquet")
    assert found_rows == list(zip(*expected.values(), strict=True))


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 70_000), min_size=1, max_size=400), st.booleans()
)
@example([2**31 - 1, -(2**31)] * 70, True)
@example([5], True)
@example(list(range(33)), True)
def test_differences_add_up(numbers, is_narrow):
    kind = pa.int32() if is_narrow else pa.int64()
    numbers = [one % 2**32 - 2**31 for one in numbers] if is_narrow else numbers
    content = whole(pa.table({"n": pa.array(numbers, kind)}), rising=["n"])
    file = pq.ParquetFile(io.BytesIO(content))
    assert "DELTA_BINARY_PACKED" in file.metadata.row_group(0).column(0).encodings
    assert file.read()["n"].to_pylist() == numbers
    assert pl.read_parquet(io.BytesIO(content))["n"].to_list() == numbers


@pytest.mark.parametrize("rows", [20_000, 20_001, 20_033, 20_128])
def test_where_numbers_fall_back_one_block_is_wide(rows, tmp_path):
    """Places of packets within their blocks rise by a packet's size, and begin again with each block."""
    numbers = np.random.default_rng(rows).integers(60, 1_500, rows).cumsum() % (1 << 20)
    content = whole(pa.table({"n": pa.array(numbers, pa.int32())}), rising=["n"])
    assert pq.read_table(io.BytesIO(content))["n"].to_pylist() == numbers.tolist()
    assert pl.read_parquet(io.BytesIO(content))["n"].to_list() == numbers.tolist()
    assert [one for (one,) in read_by_duckdb(content, tmp_path / "x.parquet")] == numbers.tolist()
    assert len(content) < 2.5 * rows

    calm = np.arange(rows) * 60
    calm[rows // 2 :] -= calm[rows // 2]
    content = whole(pa.table({"n": pa.array(calm, pa.int32())}), rising=["n"])
    assert pq.read_table(io.BytesIO(content))["n"].to_pylist() == calm.tolist()
    assert len(content) < rows


@pytest.mark.parametrize("distinct", [1, 2, 255, 256, 257, 65_536, 65_537])
def test_codes_of_every_width_are_read(distinct, tmp_path):
    codes = np.random.default_rng(distinct).integers(0, distinct, 70_000)
    texts = pa.array([f"v{at}" for at in range(distinct)], pa.large_string())
    table = pa.table({"text": spread(codes, texts), "number": pa.array(codes, pa.int64())})
    content = whole(table)
    expected = [f"v{code}" for code in codes.tolist()]
    assert pl.read_parquet(io.BytesIO(content)).to_dict(as_series=False) == {
        "text": expected,
        "number": codes.tolist(),
    }
    assert pq.read_table(io.BytesIO(content))["text"].to_pylist() == expected
    assert [text for text, _ in read_by_duckdb(content, tmp_path / "x.parquet")] == expected


def test_a_file_has_as_many_row_groups_as_it_takes(monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_ROWS", 100)
    codes = np.arange(250) % 7
    codes[::3] = -1
    table = pa.table(
        {"a": spread(codes, pa.array(range(7), pa.int32())), "b": pa.array(range(250), pa.int64())}
    )
    table = table.append_column("c", constant("x", pa.large_string(), 250))
    content = whole(table, nullable=["a"], rising=["b"], bounded=["b"])
    file = pq.ParquetFile(io.BytesIO(content))
    assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == [100, 100, 50]
    assert file.read().to_pydict() == table.to_pydict()
    bounds = [file.metadata.row_group(at).column(1).statistics for at in range(3)]
    assert [(one.min, one.max, one.null_count) for one in bounds] == [(0, 99, 0), (100, 199, 0), (200, 249, 0)]


def test_only_what_may_be_known_has_bounds():
    times = pa.array([EPOCH, EPOCH + timedelta(hours=1), None], TIME)
    table = pa.table(
        {"at": times, "secret": pa.array([1, 2, 3], pa.int32()), "text": pa.array(["a", "b", "c"])}
    )
    table = table.set_column(2, "text", table["text"].cast(pa.large_string()))
    content = whole(table, nullable=["at"], bounded=["at", "text"])
    described = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0)
    assert [described.column(at).statistics is None for at in range(3)] == [False, True, True]
    found = described.column(0).statistics
    assert (found.min, found.max, found.null_count) == (EPOCH, EPOCH + timedelta(hours=1), 1)


def test_columns_with_the_same_codes_share_their_page():
    codes = np.random.default_rng(1).integers(0, 200, 50_000)
    one = spread(codes, pa.array(range(200), pa.int32()))
    other = pa.DictionaryArray.from_arrays(
        one.indices, pa.array([f"v{at}" for at in range(200)], pa.large_string())
    )
    fewer = pa.DictionaryArray.from_arrays(one.indices, pa.array(range(300), pa.int32()))
    table = pa.table({"one": one, "other": other, "fewer": fewer})
    content = whole(table)
    assert pq.read_table(io.BytesIO(content)).to_pydict() == table.to_pydict()
    page = whole(table.select(["one"]))[1000:40_000]
    # That of `fewer` is another one: its numbers are wider.
    assert content.count(page) == 2


@pytest.mark.parametrize("width", [1, 4])
def test_texts_can_be_read_as_dictionaries(width):
    texts = pa.array([f"v{at:0{width}}" for at in range(2_000)], pa.large_string()).slice(5)
    coded = spread(np.arange(1_995) % 3, pa.array(["a", "b", "c"], pa.large_string()))
    content = whole(pa.table({"plain": texts, "coded": coded}))
    file = pq.ParquetFile(io.BytesIO(content), read_dictionary=["plain", "coded"])
    assert file.read().to_pydict() == {"plain": texts.to_pylist(), "coded": coded.to_pylist()}


def test_a_null_where_none_may_be_is_refused():
    """Its page would lack a value, and readers would look for it behind the page."""
    with pytest.raises(ValueError, match="column x has nulls"):
        whole(pa.table({"x": pa.array([1, None], pa.int32())}))


def test_another_type_is_refused():
    with pytest.raises(KeyError):
        whole(pa.table({"x": pa.array([1.5], pa.float32())}))
