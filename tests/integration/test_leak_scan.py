"""The leak scan on real files: values planted in clear, everywhere that software leaves them, are all found."""

from __future__ import annotations

import base64
import fcntl
import gzip
import json
import os
import random
import sqlite3
import subprocess
import sys
import urllib.parse
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from stores import leaks
from stores.home import Home
from stores.leaks import LeakReport, default_exclusions, scan
from transforms.errors import UsageError
from transforms.pii.ciphers import siv_encrypt
from transforms.pii.envelope import seal
from transforms.pii.leaks import Limits

COUNT = 200
SOURCE = random.Random(22)  # noqa: S311 - test data
NAMES = "Zoë Jürgen Anna Søren Łukasz Mary Ana Đỗ 李雷 Noémie".split()


def identity(number: int) -> str:
    """An e-mail address, an IP address, a name with an umlaut or a MAC address, no two alike."""
    letters = "".join(SOURCE.choices("abcdefghijklmnopqrstuvwxyz", k=7))
    octets = [SOURCE.randrange(256) for _ in range(6)]
    return (
        f"{letters}.{number}@Example.ORG",
        f"10.{octets[0]}.{octets[1]}.{number % 256}/{number}",
        f"{NAMES[number % 10]} {letters.title()}-{number}",
        ":".join(f"{octet:02x}" for octet in octets),
    )[number % 4]


VALUES = [identity(number) for number in range(COUNT)]
EVERY = set(range(COUNT))
FILLER = [f"filler {number} " + "x" * 40 for number in range(2000)]


def scanned(root: Path, **options: Any) -> LeakReport:
    return scan(root, VALUES, exclude=[], **options)


def found(report: LeakReport, *, file: str = "", place: str = "") -> set[int]:
    return {hit.value for hit in report.hits if file in hit.file and place in hit.place}


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd", 3).compress(content, asbytes=True)
    return packed


def records() -> list[bytes]:
    return [json.dumps({"who": value, "path": "a/b"}).replace("/", "\\/").encode() for value in VALUES]


@contextmanager
def database(path: Path, **pragmas: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma secure_delete = off")
        for name, setting in pragmas.items():
            connection.execute(f"pragma {name} = {setting}")
        yield connection
        connection.commit()


class TestParquetAndDelta:
    @pytest.mark.parametrize("use_dictionary", [True, False])
    def test_pages(self, tmp_path: Path, use_dictionary: bool) -> None:
        table = pa.table({"ip": [*FILLER, *VALUES], "n": range(len(FILLER) + COUNT)})
        options = {"use_dictionary": use_dictionary, "write_statistics": False}
        pq.write_table(table, tmp_path / "part", compression="zstd", row_group_size=500, **options)
        assert not any(value.encode() in (tmp_path / "part").read_bytes() for value in VALUES)
        report = scanned(tmp_path)
        assert found(report, place="column ip, row group 4") == EVERY
        assert report.unreadable == []

    def test_nested_and_binary(self, tmp_path: Path) -> None:
        rows = [{"who": [{"id": value.encode()}]} for value in VALUES]
        pq.write_table(pa.table({"event": rows}), tmp_path / "x", compression="zstd", write_statistics=False)
        assert found(scanned(tmp_path), place="column event.who.list.element.id") == EVERY

    def test_statistics_and_metadata(self, tmp_path: Path) -> None:
        table = pa.table({f"c{number}": [value] for number, value in enumerate(VALUES)})
        pq.write_table(table, tmp_path / "s", compression="zstd", use_dictionary=False)
        pairs = {str(number): value for number, value in enumerate(VALUES)}
        empty = pa.table({"n": [1]}).replace_schema_metadata(pairs)
        pq.write_table(empty, tmp_path / "m", compression="zstd")
        report = scanned(tmp_path)
        assert found(report, file="s", place="statistics") == EVERY
        assert found(report, file="m", place="key-value metadata") == EVERY

    def test_delta_table(self, tmp_path: Path) -> None:
        table = pa.table({"who": VALUES, "day": VALUES, "n": range(COUNT)})
        write_deltalake(tmp_path / "t", table, partition_by=["day"])
        for number in range(3):
            write_deltalake(
                tmp_path / "t", pa.table({"who": ["a"], "day": ["d"], "n": [number]}), mode="append"
            )
        DeltaTable(tmp_path / "t").create_checkpoint()
        report = scanned(tmp_path)
        assert found(report, place="column who") == EVERY
        assert found(report, place="folder name") == EVERY
        assert found(report, file="00000.json") == EVERY
        assert found(report, file="checkpoint.parquet", place="column add") == EVERY
        assert report.unreadable == []

    def test_delta_log_statistics_alone(self, tmp_path: Path) -> None:
        for value in VALUES[:40]:
            write_deltalake(tmp_path / "t", pa.table({"who": [value]}), mode="append")
        logs = [hit for hit in scanned(tmp_path).hits if hit.file.endswith(".json")]
        assert {hit.value for hit in logs} == set(range(40))


class TestStreamsAndText:
    def test_compressed_files(self, tmp_path: Path) -> None:
        body = b"\n".join(records())
        streams = {
            "gzip": gzip.compress(body),
            "members": b"".join(gzip.compress(record) for record in records()),
            "zstd": zstd(body),
            "frames": b"".join(zstd(record) for record in records()),
            "inside": b"head" + zstd(body) + b"tail",
            "twice": gzip.compress(zstd(body)),
        }
        for name, content in streams.items():
            (tmp_path / name).write_bytes(content)
        report = scanned(tmp_path)
        for name in streams:
            assert found(report, file=name) == EVERY, name
        assert report.unreadable == []

    def test_text_files(self, tmp_path: Path) -> None:
        texts = {
            "json": b"\n".join(records()),
            "log": "\n".join(f"INFO user={value} ok" for value in VALUES).encode(),
            "utf-16-le": "\n".join(VALUES).encode("utf-16-le"),
            "utf-16": "\n".join(VALUES).encode("utf-16"),
            "base64": b"\n".join(base64.b64encode(b"x" * at + record) for at, record in enumerate(records())),
            "values64": b" ".join(base64.b64encode(value.encode()) for value in VALUES),
            "percent": "\n".join(urllib.parse.quote(value, safe="") for value in VALUES).encode(),
            "hex": "\n".join(value.encode().hex() for value in VALUES).encode(),
            "upper": "\n".join(VALUES).upper().encode(),
            "packed": json.dumps(
                {"cursor": base64.b64encode(zlib.compress(b"\n".join(records()))).decode()}
            ).encode(),
        }
        for name, content in texts.items():
            (tmp_path / name).write_bytes(content)
        report = scanned(tmp_path)
        for name in texts:
            assert found(report, file=name) >= (EVERY if name != "base64" else set(range(0, COUNT, 4))), name
        assert report.unreadable == []

    def test_names_of_files_and_folders(self, tmp_path: Path) -> None:
        for number, value in enumerate(VALUES):
            name = urllib.parse.quote(value, safe="@: ") if number % 2 else value.replace("/", "%2F")
            if number % 3:
                (tmp_path / f".{name}.part").write_bytes(b"x")
            else:
                (tmp_path / f"who={name}").mkdir()
        report = scanned(tmp_path)
        assert found(report, place="name") == EVERY
        assert {hit.place for hit in report.hits} == {"file name", "folder name"}

    def test_the_report_holds_no_value(self, tmp_path: Path) -> None:
        value = VALUES[0]
        (tmp_path / value / value).mkdir(parents=True)
        (tmp_path / value / value / "log").write_text(value)
        (tmp_path / value / "cut.gz").write_bytes(gzip.compress(value.encode())[:-3])
        pq.write_table(pa.table({value: ["x"]}), tmp_path / "p")
        with database(tmp_path / "d") as connection:
            connection.execute(f'create table "{value}" (a)')
            connection.execute(f'insert into "{value}" values (?)', (value,))  # noqa: S608
        report = scanned(tmp_path)
        assert found(report) == {0}
        assert len(report.unreadable) == 1
        assert value.lower() not in repr(report).lower()

    def test_links(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "file").write_text(VALUES[1])
        home = tmp_path / "home"
        home.mkdir()
        (home / "folder").symlink_to(outside)
        (home / "target").symlink_to(VALUES[0])
        report = scanned(home)
        assert {(hit.place, hit.value) for hit in report.hits} == {("link target", 0)}


class TestSqlite:
    def test_rows_of_every_kind(self, tmp_path: Path) -> None:
        with database(tmp_path / "rows.db") as connection:
            connection.execute("create table runs (body text, packed blob, number)")
            packed = [zstd(record) if at % 2 else zlib.compress(record) for at, record in enumerate(records())]
            connection.executemany(
                "insert into runs values (?, ?, ?)", zip(VALUES, packed, range(200), strict=True)
            )
        with database(tmp_path / "utf16.db", encoding="'UTF-16le'") as connection:
            connection.execute("create table t (a primary key) without rowid")
            connection.executemany("insert into t values (?)", [(value,) for value in VALUES])
        report = scanned(tmp_path)
        assert found(report, place="table runs, column body") == EVERY
        assert found(report, place="table runs, column packed") == EVERY
        assert found(report, file="utf16.db", place="table t, column a") == EVERY
        assert report.unreadable == []

    def test_long_cells_over_many_pages(self, tmp_path: Path) -> None:
        body = SOURCE.randbytes(20_000) + b"\n".join(records()) + SOURCE.randbytes(20_000)
        with database(tmp_path / "x") as connection:
            connection.execute("create table t (raw, packed)")
            connection.execute("insert into t values (?, ?)", (body, zstd(body)))
        report = scanned(tmp_path)
        assert found(report, place="column raw") == found(report, place="column packed") == EVERY
        assert report.unreadable == []

    def test_deleted_rows(self, tmp_path: Path) -> None:
        with database(tmp_path / "x") as connection:
            connection.execute("create table t (a, b)")
            connection.executemany(
                "insert into t values (?, ?)", [(value, zstd(b"z" * 500)) for value in VALUES]
            )
            connection.commit()
            connection.execute("delete from t")
        report = scanned(tmp_path)
        assert found(report, place="raw pages") == EVERY
        assert found(report, place="table") == set()

    def test_deleted_streams_over_several_pages_are_said(self, tmp_path: Path) -> None:
        with database(tmp_path / "x") as connection:
            connection.execute("create table t (a)")
            body = json.dumps([SOURCE.random() for _ in range(5000)]).encode()
            connection.execute("insert into t values (?)", (zstd(body),))
            connection.commit()
            connection.execute("delete from t")
        assert "compressed streams" in scanned(tmp_path).unreadable[0].reason

    @pytest.mark.parametrize("where", ["this process", "another process"])
    def test_open_write_ahead_log(self, tmp_path: Path, where: str) -> None:
        path = tmp_path / "app.db"
        with writer(path, here=where == "this process"):
            assert not any(value.encode() in path.read_bytes() for value in VALUES) or where == "this process"
            report = scanned(tmp_path)
            assert found(report, file="app.db", place="table t, column a") == EVERY
            assert found(report, file="app.db-wal", place="write-ahead log") == EVERY
            assert report.unreadable == []

    def test_log_of_an_uncommitted_transaction(self, tmp_path: Path) -> None:
        with database(tmp_path / "x", journal_mode="wal", cache_size="2") as connection:
            connection.execute("create table t (a)")
            connection.executemany("insert into t values (?)", [(value + "." * 3000,) for value in VALUES])
            report = scanned(tmp_path)
            assert len(found(report, place="write-ahead log")) > COUNT // 2
            assert found(report, place="table t") == set()

    def test_rollback_journal(self, tmp_path: Path) -> None:
        with database(tmp_path / "x", journal_mode="persist") as connection:
            connection.execute("create table t (a)")
            connection.executemany("insert into t values (?)", [(value,) for value in VALUES])
            connection.commit()
            connection.execute("update t set a = 'gone'")
            report = scanned(tmp_path)
            assert found(report, file="x-journal") == EVERY
            assert found(report, place="table t") == EVERY  # what the last commit left

    def test_full_text_terms(self, tmp_path: Path) -> None:
        terms = [f"prefix{number:04}term" for number in range(COUNT)]
        with database(tmp_path / "x") as connection:
            connection.execute("create virtual table s using fts5(body, content='')")
            connection.execute("insert into s (rowid, body) values (1, ?)", (" ".join(terms),))
        report = scan(tmp_path, terms, exclude=[])
        assert found(report, place="table s (terms)") == EVERY

    def test_a_scan_leaves_no_files_and_no_changes(self, tmp_path: Path) -> None:
        with database(tmp_path / "x", journal_mode="wal") as connection:
            connection.execute("create table t (a)")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert scanned(tmp_path).unreadable == []
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_scan_keeps_the_locks_of_this_process(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leaks, "_LOCK_TIMEOUT_S", 0.01)
        path = tmp_path / "x"
        with database(path) as connection:
            connection.execute("create table t (a)")
            connection.commit()
            connection.execute("begin exclusive")
            scanned(tmp_path)
            script = (
                "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0); c.execute('begin immediate')"
            )
            command = [sys.executable, "-c", script, str(path)]
            other = subprocess.run(command, capture_output=True, check=False)
            assert b"locked" in other.stderr
            connection.rollback()

    def test_locked_database_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(leaks, "_LOCK_TIMEOUT_S", 0.01)
        with database(tmp_path / "x") as connection:
            connection.execute("create table t (a)")
            connection.execute("insert into t values (?)", (VALUES[0],))
            connection.commit()
            connection.execute("begin exclusive")
            report = scanned(tmp_path)
            connection.rollback()
        assert [one.reason for one in report.unreadable if one.file == "x"] == ["SQLite: OperationalError"]
        assert found(report, place="raw pages") == {0}

    def test_damaged_database_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"SQLite format 3\0" + VALUES[0].encode() + SOURCE.randbytes(8000))
        report = scanned(tmp_path)
        assert found(report) == {0}
        assert report.unreadable

    def test_huge_cell_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(leaks, "_LARGEST_CELL_BYTES", 100_000)
        with database(tmp_path / "x") as connection:
            connection.execute("create table t (a)")
            connection.execute("insert into t values (?)", ("." * 150_000 + VALUES[0],))
        report = scanned(tmp_path)
        assert found(report, place="raw pages") == {0}
        assert "32 MiB" in report.unreadable[0].reason


@contextmanager
def writer(path: Path, *, here: bool) -> Iterator[None]:
    """Write every value into a database whose write-ahead log is not checkpointed while this holds."""
    script = (
        "import json, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "c.execute('pragma journal_mode = wal')\n"
        "c.execute('create table t (a)')\n"
        "c.executemany('insert into t values (?)', [(v,) for v in json.loads(sys.argv[2])])\n"
        "c.commit()\n"
    )
    if here:
        with database(path, journal_mode="wal") as connection:
            connection.execute("create table t (a)")
            connection.executemany("insert into t values (?)", [(value,) for value in VALUES])
            connection.commit()
            yield
        return
    command = [
        sys.executable,
        "-c",
        script + "print('ready', flush=True)\ninput()",
        str(path),
        json.dumps(VALUES),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield
        child.communicate(b"\n")


class TestCleanHome:
    def test_a_clean_home(self, tmp_path: Path) -> None:
        home = Home(tmp_path / "home")
        home.make()
        (home.landing / "drop.json").write_bytes(b"\n".join(records()))
        (home.keys / "k").write_text(VALUES[0])
        key, tokens, envelopes = bytes(range(64)), [], []
        for number, value in enumerate(VALUES):
            sealed = siv_encrypt(key, value.encode(), b"place")
            tokens.append(base64.urlsafe_b64encode(b"\x01kkkk" + sealed).decode())
            nonce = number.to_bytes(12, "big")
            envelopes.append(seal(value.encode() * 90, key[:32], b"keyi", nonce, b"place"))
        table = pa.table({"token": tokens, "sealed": envelopes})
        write_deltalake(home.lake / "acme" / "raw" / "logins", table)
        DeltaTable(home.lake / "acme" / "raw" / "logins").create_checkpoint()
        with database(home.database, journal_mode="wal") as connection:
            connection.execute("create table t (token, sealed)")
            connection.executemany("insert into t values (?, ?)", zip(tokens, envelopes, strict=True))
        (home.tmp / "noise").write_bytes(SOURCE.randbytes(8 << 20))
        (home.tmp / "empty").touch()
        seen: list[Path] = []
        report = scan(home.root, VALUES, exclude=default_exclusions(home), on_file=seen.append)
        assert report.hits == report.unreadable == []
        assert report.files == len(seen) > 5
        assert report.size_bytes == sum(path.stat().st_size for path in seen)
        assert found(scanned(home.root), file="landing/drop.json") == EVERY

    def test_one_value_in_one_place(self, tmp_path: Path) -> None:
        home = Home(tmp_path)
        home.make()
        (home.dagster / "log").write_text(f"failed for {VALUES[7].upper()}")
        report = scan(home.root, VALUES, exclude=default_exclusions(home))
        assert [(hit.file, hit.place, hit.value) for hit in report.hits] == [("dagster/log", "raw bytes", 7)]


class TestWhatCannotBeRead:
    def test_vanished_while_scanning(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("text")
        report = scanned(tmp_path, on_file=lambda path: path.unlink())
        assert [(one.file, one.reason) for one in report.unreadable] == [("a", "No such file or directory")]
        assert report.files == 0

    def test_back_after_a_moment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a"
        path.write_text(VALUES[0])
        monkeypatch.setattr("time.sleep", lambda _: path.write_text(VALUES[0]))
        report = scanned(tmp_path, on_file=lambda path: path.unlink())
        assert found(report) == {0}
        assert report.unreadable == []

    def test_forbidden(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a").write_text("text")
        (tmp_path / "f").mkdir()

        def refuse(*_: Any) -> int:
            raise PermissionError(13, "Permission denied", VALUES[0])

        monkeypatch.setattr(os, "open", refuse)
        scandir = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: refuse() if path == tmp_path / "f" else scandir(path))
        reasons = {(one.file, one.reason) for one in scanned(tmp_path).unreadable}
        assert reasons == {("a", "Permission denied"), ("f", "Permission denied")}

    def test_pipes_do_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "file").write_text("text")
        assert scanned(tmp_path).files == 1

        def replace(path: Path) -> None:
            path.unlink()
            os.mkfifo(path)

        assert scanned(tmp_path, on_file=replace).unreadable[0].reason == "no plain file"

    def test_a_file_that_is_open_here(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"c": VALUES}), tmp_path / "small", compression="zstd", write_statistics=False)
        (tmp_path / "large").write_bytes(gzip.compress(SOURCE.randbytes(5 << 20)) + VALUES[0].encode())
        with (tmp_path / "small").open("rb") as small, (tmp_path / "large").open("rb+") as large:
            fcntl.lockf(large, fcntl.LOCK_EX)
            report = scanned(tmp_path)
            probe = f"import fcntl; fcntl.lockf(open({large.name!r}, 'rb+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
            other = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False)
            assert b"BlockingIOError" in other.stderr
            assert not small.closed
        assert found(report, file="small") == EVERY
        assert found(report, file="large") == {0}
        assert [one.file for one in report.unreadable] == ["large"]

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError):
            scanned(tmp_path / "absent")

    def test_bombs_are_bounded(self, tmp_path: Path) -> None:
        for name, content in (("g", gzip.compress(bytes(200 << 20), 1)), ("z", zstd(bytes(400 << 20)))):
            (tmp_path / name).write_bytes(content)
        report = scanned(tmp_path, limits=Limits(total_bytes=16 << 20, ratio=1))
        assert {one.file for one in report.unreadable} == {"g", "z"}
        assert all("bound" in one.reason for one in report.unreadable)


class TestMemory:
    def test_large_files_pass_in_windows(self, tmp_path: Path) -> None:
        """A file of 300 MB and a stream of 200 MB grow the process by less than 64 MB."""
        (tmp_path / "plain").write_bytes(b"")
        block = SOURCE.randbytes(1 << 20)
        with (tmp_path / "plain").open("wb") as file:
            for number in range(300):
                file.write(VALUES[number % 20].encode() if number in (0, 150, 299) else b"")
                file.write(block)
        (tmp_path / "stream").write_bytes(zstd(bytes(200 << 20) + VALUES[5].encode()))
        script = (
            "import json, psutil, resource, sys\n"
            "from pathlib import Path\n"
            "from stores.leaks import scan\n"
            "values = json.loads(sys.argv[2])\n"
            "scan(Path(sys.argv[1]) / 'none', values, exclude=[])\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "report = scan(Path(sys.argv[1]), values, exclude=[])\n"
            "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "fds = psutil.Process().num_fds()\n"
            "print(json.dumps([after - before, fds, [[h.file, h.value] for h in report.hits]]))\n"
        )
        (tmp_path / "none").mkdir()
        command = [sys.executable, "-c", script, str(tmp_path), json.dumps(VALUES[:20])]
        grown_kib, fds, hits = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        assert {tuple(hit) for hit in hits} == {("plain", 0), ("plain", 10), ("plain", 19), ("stream", 5)}
        assert grown_kib < 64 << 10
        # Of the process that scanned: this one has whatever other tests have not let go yet.
        assert fds < 50
