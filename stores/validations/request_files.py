"""Files of requests: each record is submitted as if it had come by itself; bad ones go to quarantine.

The file lies in landing until all of it is taken. A killed process leaves it there, and the next one goes on:
each record has a key of its own, so that none is taken twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from stores.home import blake3_of
from stores.keys import TenantKeys
from stores.landing import Batch, Landing
from stores.ledger import Counts, Ledger
from stores.locks import exclusive, shared
from stores.quarantine import Quarantine
from stores.tables import Commit
from stores.validations.intake import ValidationIntake
from stores.validations.request_journal import RequestMark
from transforms.audit import canonical_json
from transforms.chunks import Chunk, cut_chunks
from transforms.errors import ErasedSubjectError
from transforms.parsing import ROW, parse_records
from transforms.pii.ciphers import keyed_digest
from transforms.pii.contracts import Contract
from transforms.pii.identities import delivery_digest
from transforms.records import Piece, read_records
from transforms.validations.requests import fields_of, request_contract

# Requests on their way in have a place of their own: what is in `validations` is on its way to the lake.
SOURCE = "validation-requests"


class RequestFiles:
    """Takes files of requests of one tenant."""

    def __init__(
        self,
        keys: TenantKeys,
        landing: Landing,
        ledger: Ledger,
        intake: ValidationIntake,
        quarantine: Quarantine,
        locks: Path,
    ) -> None:
        """Remember the stores; nothing is read yet."""
        self._keys, self._landing, self._ledger = keys, landing, ledger
        self._intake, self._quarantine, self._locks = intake, quarantine, locks / keys.tenant

    def land(self, paths: Sequence[Path]) -> list[Batch]:
        """Copy files into landing; the originals stay."""
        return self._landing.copy_in(SOURCE, self._keys.tenant, paths)

    def land_content(self, name: str, content: bytes) -> list[Batch]:
        """Land requests that are at hand."""
        return self._landing.land(SOURCE, self._keys.tenant, name, content)

    def left(self) -> list[Batch]:
        """Give the files that a killed process left."""
        return [one for one in self._landing.open_batches(SOURCE) if one.tenant == self._keys.tenant]

    def take(self, batch: Batch, contract: Contract, clock: Callable[[], int]) -> Counts:
        """Submit what a batch holds, then delete its files. `clock` gives milliseconds since 1970.

        Raises: BusyError where an erasure holds the tenant.
        """
        with shared(self._locks / "tenant.lock"), exclusive(self._locks / f"{SOURCE}.lock"):
            counts, deliveries = Counts(), dict[int, bytes]()
            for file, path, _ in batch.files():
                deliveries[file] = delivery_digest(self._keys.identity_key("delivery"), blake3_of(path))
                known = self._ledger.deliver(batch, {file: deliveries[file]})[file]
                if (known.batch_id, known.file) != (batch.id, file):
                    counts += Counts(rows=known.rows, duplicates=known.rows)
                    continue
                one = self._take_file(batch, file, path, deliveries, contract, clock)
                self._ledger.count_deliveries(batch.id, {file: one.rows})
                counts += one
            self._intake.relay()
            self._landing.discard_files(batch)
            self._landing.close(batch)
        return counts

    def _take_file(
        self,
        batch: Batch,
        file: int,
        path: Path,
        deliveries: dict[int, bytes],
        contract: Contract,
        clock: Callable[[], int],
    ) -> Counts:
        counts = Counts()
        for chunk in cut_chunks(_pieces(file, path), batch.chunk_bytes):
            parsed = parse_records(chunk.payloads, request_contract(contract))
            faults = [*chunk.faults, *chunk.faults_of(parsed.rejected)]
            # A chunk's number is its own among all files of the batch: a commit is known by it.
            number = file << 20 | chunk.number
            commit = Commit(
                f"{contract.source}/{batch.id}/{number}", clock(), {"batch": batch.id, "chunk": str(number)}
            )
            self._quarantine.add(replace(batch, source=contract.source), faults, deliveries, commit)
            counts += Counts(rows=len(faults), quarantined=len(faults))
            frame = parsed.to_frame()
            for at, row in enumerate(frame[ROW].to_list()):
                fields = fields_of(frame, at, contract)
                counts += self._submit(chunk, row, deliveries[file], fields, contract)
        return counts

    def _submit(
        self, chunk: Chunk, row: int, delivery: bytes, fields: dict[str, str], contract: Contract
    ) -> Counts:
        name = chunk.names.get(row) or f"{delivery.hex()}/{chunk.records[row]}"
        key = self._keys.identity_key("query")
        body = canonical_json(fields).encode()
        mark = RequestMark(keyed_digest(key, b"record", name.encode()).hex(), keyed_digest(key, body).hex())
        try:
            done = self._intake.submit(self._keys.tenant, fields, contract.subject.name, mark, is_told=False)
        except ErasedSubjectError:
            return Counts(rows=1, refused=1)
        return Counts(rows=1, accepted=int(done.is_new), duplicates=int(not done.is_new))


def _pieces(file: int, path: Path) -> Iterator[tuple[int, Piece]]:
    with path.open("rb") as stream:
        for piece in read_records(stream):
            yield file, piece
