"""The vault: values that only their data subject's living key opens, found by their token.

A masked table holds 28 characters for such a value; the value itself lies here, sealed for the
subject, once for each subject, join domain and token. The envelope is bound to all three. The same
value of two people is two cells: erasing one leaves the other's.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime

import polars as pl

from stores.home import Home
from stores.locks import exclusive
from stores.sealing import Sealer
from stores.tables import Commit, Tables
from transforms.pii.ciphers import GCM_NONCE_BYTES
from transforms.pii.contracts import Contract
from transforms.pii.envelope import Place, open_many, seal_many
from transforms.pii.masking import as_text
from transforms.pii.siv import HEAD_CHARACTERS, encrypt_column, has_live_key
from transforms.tables import VAULT_CELLS

_FAMILY = "vault"
_PLACE_BYTES = HEAD_CHARACTERS + 16
_KEY = ["subject_ref", "domain", "token"]


def vault_fields(contract: Contract) -> list[str]:
    """Name the fields of a contract whose values are kept in the vault."""
    return [one.name for one in contract.fields if any(out.strategy == "vault" for out in one.outputs)]


class Vault:
    """The vault of one tenant."""

    def __init__(self, home: Home, tables: Tables, sealer: Sealer) -> None:
        """Remember the stores; nothing is opened yet."""
        self._tenant = sealer.keys.tenant
        self._tables, self._sealer = tables, sealer
        self._lock = home.locks / self._tenant / "vault.lock"

    def keep(
        self, contract: Contract, records: pl.DataFrame, keys: Mapping[bytes, bytes], commit: Commit
    ) -> int:
        """Keep the values of a contract's vault fields that are new for their subject; give how many.

        Shape: `records` has the subject's field and the `vault_fields` in canonical form, `subject_ref` and
        `received_at`.
        """
        named = vault_fields(contract)
        if not named or records.is_empty():
            return 0
        found = pl.concat([self._cells(contract, records, name) for name in named])
        # Two sources that meet the same value at once would both find it new.
        with exclusive(self._lock):
            fresh = self._without_known(found)
            if fresh.is_empty():
                return 0
            rows = self._sealed(fresh, [keys[ref] for ref in fresh["subject_ref"]])
            own = Commit(f"vault/{commit.id}", commit.written_at_ms, commit.marks)
            return self._tables.append(self._tenant, VAULT_CELLS, rows, own).rows

    def open(self, domain: str, tokens: pl.Series, subjects: pl.Series | None = None) -> pl.Series:
        """Open tokens of a join domain; null where no living key opens one.

        Shape: String in, as many Strings out. `subjects` are the joinable parts of the subjects' own
        tokens, row by row: only the cell of that subject opens a token. Where the table does not name
        the subject, anybody's cell of the same value does.
        Raises: DecryptionError where a cell does not verify.
        """
        asked = pl.DataFrame({"token": tokens.cast(pl.String)}).with_columns(
            subject_token=subjects.cast(pl.String) if subjects is not None else pl.lit(None, pl.String)
        )
        on = ["token"] if subjects is None else ["token", "subject_token"]
        cells = self._opened(domain, asked["token"].drop_nulls().unique())
        known = cells.unique(on, keep="first", maintain_order=True).select(*on, "value")
        return asked.join(known, on=on, how="left", maintain_order="left")["value"]

    def of_subject(self, ref: bytes) -> pl.DataFrame:
        """Give everything that is kept for a subject. Shape: `domain`, `token`, `received_at`, `value`."""
        if not self._tables.exists(self._tenant, VAULT_CELLS.key):
            return pl.DataFrame(schema=dict.fromkeys(("domain", "token", "received_at", "value"), pl.String))
        with self._tables.reading(self._tenant, VAULT_CELLS.key) as table:
            cells = table.filter(pl.col("subject_ref") == ref).collect()
        return self._values(cells).select("domain", "token", "received_at", "value")

    def renewals(self) -> Iterator[pl.DataFrame]:
        """Give the old tokens with the present ones. Shape: `domain`, `old_token`, `new_token`; by day."""
        for _, cells in self._days():
            stale = self._values(cells.filter(~self._is_current(cells, "token", cells["domain"])))
            if stale.height:
                names = {"old_token": stale["token"], "new_token": self._tokens(stale)}
                yield stale.select("domain").with_columns(**names).unique("old_token")

    def renew(self, heads: Mapping[str, str], at: datetime) -> int:
        """Seal the cells of old epochs anew, bound to their present tokens; give how many.

        `heads` maps old subject tokens to present ones. Cells of erased subjects do not come along.
        """
        count = 0
        with exclusive(self._lock):
            for day, cells in self._days():
                current = self._is_current(cells, "token", cells["domain"])
                if current.all():
                    continue
                stale = self._values(cells.filter(~current))
                subjects = [heads.get(one, "") for one in stale["subject_token"].to_list()]
                fresh = stale.with_columns(
                    token=self._tokens(stale), subject_token=pl.Series(subjects, dtype=pl.String)
                ).sort("subject_ref")
                keys = self._sealer.subjects.existing(fresh["subject_ref"].unique().to_list())
                sealed = self._sealed(fresh, [keys[ref] for ref in fresh["subject_ref"].to_list()])
                kept = cells.filter(current)
                rows = pl.concat([kept, sealed.select(kept.columns)]).unique(_KEY, keep="first")
                commit = Commit(f"renew/{day}/{at.isoformat()}", int(at.timestamp() * 1000), {"day": str(day)})
                self._tables.replace(self._tenant, VAULT_CELLS, rows, f"received_date = '{day}'", commit)
                count += sealed.height
        return count

    def holds_old_tokens(self) -> bool:
        """Whether a cell is still under an old epoch."""
        return any(not self._is_current(cells, "token", cells["domain"]).all() for _, cells in self._days())

    def _days(self) -> Iterator[tuple[date, pl.DataFrame]]:
        """Give the cells of each day of arrival."""
        if not self._tables.exists(self._tenant, VAULT_CELLS.key):
            return
        with self._tables.reading(self._tenant, VAULT_CELLS.key) as table:
            days = table.select(pl.col("received_date").unique()).collect()["received_date"].sort().to_list()
        for day in days:
            with self._tables.reading(self._tenant, VAULT_CELLS.key) as table:
                cells = table.filter(pl.col("received_date") == day).collect()
            yield day, cells

    def _is_current(self, cells: pl.DataFrame, column: str, domains: pl.Series) -> pl.Series:
        live = [self._sealer.keys.token_key(domain).key_id for domain in domains.unique().to_list()]
        return has_live_key(cells[column], live)

    def _tokens(self, values: pl.DataFrame) -> pl.Series:
        """Make the present tokens of opened cells, in their order."""
        made = pl.repeat(None, values.height, dtype=pl.String, eager=True)
        for domain in values["domain"].unique().to_list():
            rows = (values["domain"] == domain).arg_true()
            key = self._sealer.keys.token_key(domain)
            made = made.scatter(rows, encrypt_column(values["value"].gather(rows), key, keep_ciphertext=False))
        return made

    def _opened(self, domain: str, tokens: pl.Series) -> pl.DataFrame:
        if not self._tables.exists(self._tenant, VAULT_CELLS.key):
            return pl.DataFrame(schema=dict.fromkeys(("token", "subject_token", "value"), pl.String))
        with self._tables.reading(self._tenant, VAULT_CELLS.key) as table:
            wanted = tokens.rename("token").to_frame().lazy()
            cells = table.filter(pl.col("domain") == domain).join(wanted, on="token", how="semi").collect()
        return self._values(cells)

    def _values(self, cells: pl.DataFrame) -> pl.DataFrame:
        """Open cells, those of a subject together; cells of erased subjects are left out."""
        cells = cells.sort("subject_ref")
        keys = self._sealer.subjects.existing(cells["subject_ref"].unique().to_list())
        cells = cells.filter(pl.col("subject_ref").is_in(list(keys)))
        opened = open_many(
            cells["cell"].to_list(), [keys[ref] for ref in cells["subject_ref"]], self._places(cells)
        )
        return cells.with_columns(value=pl.Series(opened, dtype=pl.Binary).cast(pl.String))

    def _cells(self, contract: Contract, records: pl.DataFrame, name: str) -> pl.DataFrame:
        """Give a field's values with subject and token, each once."""
        keys, declared = self._sealer.keys, contract.field(name)
        domain, subject = str(declared.domain), contract.subject
        pairs = records.select(
            "subject_ref",
            "received_at",
            subject_id=as_text(records[subject.name]),
            value=as_text(records[name]),
        ).filter(pl.col("value").is_not_null())
        distinct = pairs.unique(["subject_ref", "value"], keep="first", maintain_order=True)
        return distinct.select(
            "subject_ref",
            "received_at",
            "value",
            domain=pl.lit(domain),
            token=encrypt_column(distinct["value"], keys.token_key(domain), keep_ciphertext=False),
            subject_token=encrypt_column(
                distinct["subject_id"], keys.token_key(str(subject.domain)), keep_ciphertext=False
            ),
        ).unique(_KEY, keep="first", maintain_order=True)

    def _without_known(self, cells: pl.DataFrame) -> pl.DataFrame:
        if not self._tables.exists(self._tenant, VAULT_CELLS.key):
            return cells
        with self._tables.reading(self._tenant, VAULT_CELLS.key) as table:
            # After a rotation, the cell of somebody without masked rows names their token no more.
            on = [*_KEY, "subject_token"]
            return cells.lazy().join(table.select(on), on=on, how="anti").collect()

    def _sealed(self, cells: pl.DataFrame, keys: Sequence[bytes]) -> pl.DataFrame:
        values = cells["value"].cast(pl.Binary).to_list()
        nonces = secrets.token_bytes(GCM_NONCE_BYTES * len(values))
        sealed = seal_many(values, keys, self._sealer.keys.family_id(_FAMILY), nonces, self._places(cells))
        return cells.with_columns(
            tenant=pl.lit(self._tenant),
            received_date=pl.col("received_at").dt.date(),
            cell=pl.Series(sealed, dtype=pl.Binary),
        ).sort("subject_ref")

    def _places(self, cells: pl.DataFrame) -> list[bytes]:
        """Bind each cell to its domain, token and subject."""
        begins = {
            domain: Place(self._tenant, VAULT_CELLS.key, f"cell/{domain}").begin(_PLACE_BYTES)
            for domain in cells["domain"].unique()
        }
        ids = (cells["token"].cast(pl.Binary) + cells["subject_ref"]).to_list()
        return [begins[domain] + one for domain, one in zip(cells["domain"], ids, strict=True)]
