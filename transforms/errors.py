"""Every error of the platform, as one tree.

    LockhouseError
    ├── ContractError          Final      a contract is not one that we can compile
    ├── DecryptionError        Final      any failure to open something sealed; never says which
    ├── KeyringError           Final      the keyring is absent, readable by others, or will not open
    ├── ErasedSubjectError     Final      the data subject was erased; their data are refused
    ├── RefusedError           Final      the caller may not do that
    │   └── UnknownCallerError            nobody is named, or the proof of it does not count
    ├── UsageError             Final      the request itself is wrong
    │   ├── MissingError                  what is asked for is not there
    │   │   └── GoneError                 it was there, and was deleted
    │   ├── ConflictError                 it contradicts what came before it
    │   ├── QueryError                    a query does not run
    │   └── TooLargeError                 it is larger than is taken
    ├── EventError             Final      a message is no event that is known here
    ├── TableError             Final      a table is absent or not what was expected
    ├── AuditError             Final      the audit chain does not hold
    ├── CertificateError       Final      an erasure certificate does not hold
    ├── ErasureError           Retryable  an erasure is not complete: something of the subject is left
    ├── UnreadableError        Final      a delivery's gzip or zstd is damaged
    ├── BrokenStreamError      Final      a stream inside a scanned file is damaged
    ├── UndecodedError         Final      a leak scan could not decode all of a file
    ├── UnexpectedError        Retryable  a library's error in an asset, reduced to its kind and place
    ├── RunFailedError         Retryable  a run did not get through; its batches are kept
    ├── QuotaError             Retryable  the caller has had its share for now
    ├── QueueError             Retryable  a message queue does not answer, or refuses
    ├── DatabaseError          Retryable  the application database cannot be reached
    ├── ServedError            Retryable  the served database cannot be reached, or refuses
    ├── NotYetError            Retryable  it was asked for, and is still being made
    └── BusyError              Retryable  somebody else holds a lock or a commit was overtaken

A message says what was met, what was expected and what to do. It names the column, the table or
the file's number in its batch; never a cell, never an original file name.

Two mix-ins tell queues and retry policies what to do: `Retryable` may work the next time as it
stands, `Final` will not.
"""

from __future__ import annotations


class Retryable:
    """The same call may succeed later."""


class Final:
    """The same call will fail again: somebody has to change something."""


class LockhouseError(Exception):
    """Root of every error that the platform raises on purpose."""

    def __init__(self, *message: str, see: str = "") -> None:
        """Keep the command that shows what there is (`see`) apart: who asks over HTTP has none."""
        self.see = see
        super().__init__(*message)


class ContractError(LockhouseError, Final):
    """A contract is refused: where, what was met, what is allowed."""

    def __init__(self, file: str, line: int | None, met: str, allowed: str) -> None:
        """Keep the parts as attributes; `line` is counted from 1, None where there is none."""
        self.file, self.line, self.met, self.allowed = file, line, met, allowed
        place = f"{file}:{line}" if line is not None else file
        super().__init__(f"{place}: met {met}; allowed: {allowed}")


class DecryptionError(LockhouseError, Final):
    """Something sealed could not be opened. One message for every cause, so that it is no oracle."""

    def __init__(self, what: str = "the value") -> None:
        """Name the column or the file; never the value."""
        super().__init__(f"{what} could not be opened: it was altered, or its key is not at hand")


class KeyringError(LockhouseError, Final):
    """The keyring is absent, readable by others, or does not open with this passphrase."""


class ErasedSubjectError(LockhouseError, Final):
    """The data subject was erased; nothing more is stored of them."""


class RefusedError(LockhouseError, Final):
    """The caller holds no right to do that here."""


class UsageError(LockhouseError, Final):
    """The request itself is wrong: an unknown table, a window that ends before it starts."""


class UnknownCallerError(RefusedError):
    """The caller is not known: no token, session or certificate, or one that does not count."""


class MissingError(UsageError):
    """What is asked for is not there, or not for this caller."""


class GoneError(MissingError):
    """It was deleted: what remains is its id and when that was."""


class ConflictError(UsageError):
    """The request contradicts how things stand: a changed part, an end before everything is there."""


class QueryError(UsageError):
    """A query does not run; the text may quote it."""


class TooLargeError(UsageError):
    """The request, or what it expands to, is larger than is taken."""


class QuotaError(LockhouseError, Retryable):
    """The caller has had its share for now; `retry_after_s` says when to come again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        """Keep how long to wait, in seconds."""
        self.retry_after_s = retry_after_s
        super().__init__(message)


class EventError(LockhouseError, Final):
    """A message is no event of a kind and version that is known here; it becomes a dead letter."""


class TableError(LockhouseError, Final):
    """A table is absent, or is not of the shape that the contract gives it."""


class AuditError(LockhouseError, Final):
    """The audit chain, or a checkpoint of it, does not hold."""


class CertificateError(LockhouseError, Final):
    """An erasure certificate was altered, or does not fit the home it is held against."""


class ErasureError(LockhouseError, Retryable):
    """Something of an erased subject is still there, or a place could not be looked into; it is kept open."""


class UnreadableError(LockhouseError, Final):
    """The container (gzip or zstd) of a delivery is damaged; what came out before was good."""


class BrokenStreamError(LockhouseError, Final):
    """What is certainly a compressed stream ends early or is damaged."""


class UndecodedError(LockhouseError, Final):
    """Something in a scanned file could not be decoded, so that a clean result would not be honest."""


class UnexpectedError(LockhouseError, Retryable):
    """A library's error, reduced to its kind and place: its text may quote a value."""


class RunFailedError(LockhouseError, Retryable):
    """A run did not get through: which steps failed and why; its batches are kept."""


class QueueError(LockhouseError, Retryable):
    """A message queue does not answer, or refuses: its messages stay where they are."""


class DatabaseError(LockhouseError, Retryable):
    """The application database cannot be reached; nothing was written."""


class ServedError(LockhouseError, Retryable):
    """The served database cannot be reached, or refuses: a later run catches up."""


class NotYetError(LockhouseError, Retryable):
    """What was asked for is on its way: ask again in a while."""


class BusyError(LockhouseError, Retryable):
    """A lock is held, or a commit was overtaken: try again."""
