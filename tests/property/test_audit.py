"""Whatever is done to a chain behind its back is found, or did nothing."""

from dataclasses import fields, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.audit import (
    GENESIS,
    Action,
    Checkpoint,
    Entry,
    Outcome,
    entry_hash,
    first_bad,
    verify_checkpoint,
)
from transforms.errors import AuditError
from transforms.pii.ciphers import sign, signing_public_key

KEY = bytes(range(32))
PUBLIC = signing_public_key(KEY)
TEXTS = [one.name for one in fields(Entry) if one.name != "seq"]


def chain_of(principals: list[str]) -> list[Entry]:
    """A sound chain with an entry for each principal."""
    entries: list[Entry] = []
    for seq, principal in enumerate(principals, start=1):
        previous = entries[-1].hash if entries else GENESIS
        entry = Entry(
            "default", seq, f"at {seq}", principal, str(Action.SQL_RUN), str(Outcome.DONE), "{}", previous, ""
        )
        entries.append(replace(entry, hash=entry_hash(entry)))
    return entries


def head_of(entries: list[Entry]) -> Checkpoint:
    """The signed head of a chain."""
    last = entries[-1]
    unsigned = Checkpoint("default", last.seq, last.hash, "now", "")
    return replace(unsigned, signature=sign(KEY, unsigned.message()).hex())


def is_found(entries: list[Entry], head: Checkpoint) -> bool:
    """Whether a verification says no."""
    try:
        verify_checkpoint(head, {entry.seq: entry.hash for entry in entries}, PUBLIC)
    except AuditError:
        return True
    return first_bad(entries) is not None


chains = st.lists(st.text(max_size=8), min_size=1, max_size=12).map(chain_of)
texts = st.text(max_size=70)


@given(chains)
def test_a_sound_chain_holds(chain: list[Entry]):
    assert not is_found(chain, head_of(chain))


@given(chains, st.data())
def test_any_edit_is_found(chain: list[Entry], data: st.DataObject):
    at = data.draw(st.integers(0, len(chain) - 1))
    name = data.draw(st.sampled_from(TEXTS))
    edited = list(chain)
    edited[at] = replace(chain[at], **{name: data.draw(texts)})
    assert is_found(edited, head_of(chain)) == (edited != chain)
    assert (first_bad(edited) is not None) == (edited != chain)


@given(chains, st.data())
def test_any_deletion_is_found(chain: list[Entry], data: st.DataObject):
    gone = data.draw(st.sets(st.integers(0, len(chain) - 1), min_size=1))
    assert is_found([one for at, one in enumerate(chain) if at not in gone], head_of(chain))


@given(chains, st.randoms(use_true_random=False), st.booleans())
def test_any_other_order_is_found(chain: list[Entry], dice: object, renumbered: bool):
    moved = list(chain)
    dice.shuffle(moved)  # type: ignore[attr-defined]
    if moved == chain:
        return
    if renumbered:
        moved = [replace(one, seq=seq) for seq, one in enumerate(moved, start=1)]
    assert first_bad(moved) is not None


@given(chains, st.data())
def test_a_tail_cut_before_a_signed_head_is_found(chain: list[Entry], data: st.DataObject):
    kept = data.draw(st.integers(0, len(chain) - 1))
    assert first_bad(chain[:kept]) is None
    assert is_found(chain[:kept], head_of(chain))


@given(chains, st.data())
def test_a_doubled_entry_is_found(chain: list[Entry], data: st.DataObject):
    at = data.draw(st.integers(0, len(chain) - 1))
    assert first_bad([*chain[: at + 1], *chain[at:]]) is not None


@given(chains, st.data())
@settings(max_examples=50)
def test_a_chain_computed_anew_does_not_fit_the_signed_head(chain: list[Entry], data: st.DataObject):
    at = data.draw(st.integers(0, len(chain) - 1))
    principals = [one.principal for one in chain]
    principals[at] = data.draw(texts.filter(lambda text: text != principals[at]))
    forged = chain_of(principals)
    assert first_bad(forged) is None
    assert is_found(forged, head_of(chain))


@given(chains, st.sampled_from(["seq", "head", "at", "tenant", "signature"]), st.data())
def test_a_head_that_was_altered_vouches_for_nothing(chain: list[Entry], name: str, data: st.DataObject):
    head = head_of(chain)
    value = data.draw(st.integers() if name == "seq" else texts)
    altered = replace(head, **{name: value})
    if altered != head:
        assert is_found(chain, altered)
