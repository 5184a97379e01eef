"""The keyring file: who may read it, what opens it, and what several processes do to it at once."""

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stores.keyring import (
    ARGON2,
    KEY_ID_BYTES,
    ROOT_BYTES,
    LocalKeyring,
    generate_passphrase,
    read_passphrase,
)
from stores.keys import TenantKeys, create_tenant_keys
from transforms.errors import KeyringError, UsageError

PASSPHRASE = b"correct horse battery staple"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keyring.json"


@pytest.fixture
def keyring(path: Path) -> LocalKeyring:
    made = LocalKeyring.create(path, PASSPHRASE)
    made.create_root("default", 0)
    made.create_root("default", 1)
    return made


def opened(path: Path) -> LocalKeyring:
    return LocalKeyring(path, PASSPHRASE)


def test_the_product_stretches_as_rfc_9106_recommends(argon2_of_the_product: dict[str, int]):
    assert argon2_of_the_product == {"memory_kib": 65536, "passes": 3, "lanes": 4}


def test_the_file_is_for_its_owner_alone_from_its_first_byte(path: Path, monkeypatch: pytest.MonkeyPatch):
    opened_with: list[int] = []
    original = os.open

    def noting(file: object, flags: int, mode: int = 0o777, **more: object) -> int:
        if str(file).startswith(str(path.parent)) and flags & os.O_CREAT:
            opened_with.append(mode)
        return original(file, flags, mode, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", noting)
    LocalKeyring.create(path, PASSPHRASE)
    assert opened_with == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_change_keeps_the_mode_and_leaves_no_draft(keyring: LocalKeyring, path: Path):
    keyring.key_id("default", 1, "token/ip")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(one.name for one in path.parent.iterdir()) == ["keyring.json", "keyring.lock"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601, 0o610])
def test_a_file_that_others_could_touch_is_refused(keyring: LocalKeyring, path: Path, mode: int):
    path.chmod(mode)
    with pytest.raises(KeyringError, match=f"mode {mode:03o}.*chmod 600"):
        opened(path)


def test_an_absent_keyring_is_refused_with_what_to_do(path: Path):
    with pytest.raises(KeyringError, match="lockhouse init"):
        opened(path)


@pytest.mark.parametrize("passphrase", [b"", b"correct horse battery stapl", PASSPHRASE + b"\n", b"\0"])
def test_a_wrong_passphrase_does_not_open(keyring: LocalKeyring, path: Path, passphrase: bytes):
    with pytest.raises(KeyringError, match="does not open") as raised:
        LocalKeyring(path, passphrase)
    if passphrase.strip():
        assert passphrase.decode() not in str(raised.value)


def test_creating_again_opens_what_is_there(keyring: LocalKeyring, path: Path):
    again = LocalKeyring.create(path, PASSPHRASE)
    assert again.root("default", 1) == keyring.root("default", 1)
    with pytest.raises(KeyringError):
        LocalKeyring.create(path, b"another")


@pytest.mark.parametrize("at", [0, 5, 12, 40, -1, -16])
def test_a_changed_byte_of_the_body_is_found(keyring: LocalKeyring, path: Path, at: int):
    stored = json.loads(path.read_text())
    body = bytearray(base64.b64decode(stored["body"]))
    body[at] ^= 1
    path.write_text(json.dumps({**stored, "body": base64.b64encode(body).decode()}))
    with pytest.raises(KeyringError, match="altered"):
        opened(path)


HEADERS = {
    "another format": lambda header: {**header, "format": "lockhouse-keyring-2"},
    "one more field": lambda header: {**header, "more": 1},
    "another salt": lambda header: {**header, "kdf": {**header["kdf"], "salt": "00" * 16}},
    "more passes": lambda header: {**header, "kdf": {**header["kdf"], "passes": 2}},
    "another name": lambda header: {**header, "kdf": {**header["kdf"], "name": "argon2i"}},
    "no kdf": lambda header: {"format": header["format"]},
    "a salt that is none": lambda header: {**header, "kdf": {**header["kdf"], "salt": "xyz"}},
    "negative memory": lambda header: {**header, "kdf": {**header["kdf"], "memory_kib": -1}},
    "text as memory": lambda header: {**header, "kdf": {**header["kdf"], "memory_kib": "much"}},
    "empty": lambda _: {},
    "a list": lambda _: [],
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS.keys())
def test_a_changed_header_is_found(keyring: LocalKeyring, path: Path, change):
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "header": change(stored["header"])}))
    with pytest.raises(KeyringError):
        opened(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '"text"', '{"header": {}}', '{"body": ""}', "\x00" * 100, "null"]
)
def test_a_damaged_file_is_named_as_such(keyring: LocalKeyring, path: Path, text: str):
    path.write_text(text)
    with pytest.raises(KeyringError):
        opened(path)


@pytest.mark.parametrize("body", ["", "AAAA", "not base64 at all!", "é"])
def test_a_body_that_is_none_is_found(keyring: LocalKeyring, path: Path, body: str):
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "body": body}))
    with pytest.raises(KeyringError):
        opened(path)


def test_no_key_stands_in_the_file_in_clear(keyring: LocalKeyring, path: Path):
    text = path.read_text()
    for secret in (keyring.root("default", 0), keyring.root("default", 1), keyring.signing_key()):
        assert secret.hex() not in text
        assert base64.b64encode(secret).decode() not in text
    assert PASSPHRASE.decode() not in text


def test_roots_are_random_kept_and_told_apart(keyring: LocalKeyring, path: Path):
    keyring.create_root("acme", 0)
    roots = {keyring.root("default", 0), keyring.root("default", 1), keyring.root("acme", 0)}
    assert len(roots) == 3
    assert {len(root) for root in roots} == {ROOT_BYTES}
    keyring.create_root("default", 0)
    assert opened(path).root("default", 0) == keyring.root("default", 0)
    assert opened(path).tenants() == ("acme", "default")


def test_epochs_are_those_of_tokens_oldest_first(keyring: LocalKeyring):
    for epoch in (10, 2):
        keyring.create_root("default", epoch)
    assert keyring.epochs("default") == (1, 2, 10)
    assert keyring.epochs("nobody") == ()


def test_an_unknown_root_is_refused(keyring: LocalKeyring):
    with pytest.raises(KeyringError, match="no root key of epoch 7"):
        keyring.root("default", 7)


def test_a_root_made_by_another_process_is_seen(keyring: LocalKeyring, path: Path):
    other = opened(path)
    keyring.create_root("late", 0)
    assert other.root("late", 0) == keyring.root("late", 0)


def test_a_destroyed_root_is_gone_for_good(keyring: LocalKeyring, path: Path):
    before = path.read_bytes()
    keyring.destroy_root("default", 1)
    for one in (keyring, opened(path)):
        with pytest.raises(KeyringError, match="epoch 1"):
            one.root("default", 1)
        assert one.epochs("default") == ()
    assert path.read_bytes() != before
    assert opened(path).root("default", 0)


def test_destroying_what_is_not_there_changes_nothing(keyring: LocalKeyring):
    keyring.destroy_root("default", 9)
    assert keyring.epochs("default") == (1,)


def test_a_tenant_without_token_roots_has_no_keys(keyring: LocalKeyring):
    keyring.destroy_root("default", 1)
    with pytest.raises(UsageError, match="no keys"):
        TenantKeys("default", keyring).token_key("ip")


def test_key_ids_are_short_unique_and_kept(keyring: LocalKeyring, path: Path):
    ids = {name: keyring.key_id("default", 1, name) for name in ("token/ip", "token/user", "wrap")}
    assert len(set(ids.values())) == 3
    assert {len(one) for one in ids.values()} == {KEY_ID_BYTES}
    again = opened(path)
    assert {name: again.key_id("default", 1, name) for name in ids} == ids
    assert keyring.key_id("default", 2, "wrap") != ids["wrap"]


def test_a_key_id_that_is_taken_is_not_given_twice(keyring: LocalKeyring, monkeypatch: pytest.MonkeyPatch):
    drawn = iter(["aaaaaaaa", "aaaaaaaa", "aaaaaaaa", "bbbbbbbb"])
    monkeypatch.setattr("stores.keyring.secrets.token_hex", lambda _: next(drawn))
    assert keyring.key_id("default", 1, "one").hex() == "aaaaaaaa"
    assert keyring.key_id("other", 1, "one").hex() == "bbbbbbbb"


def test_ids_of_several_keys_are_allotted_by_one_writing(
    keyring: LocalKeyring, monkeypatch: pytest.MonkeyPatch
):
    written = []
    monkeypatch.setattr("stores.keyring._write", lambda path, header, body, key: written.append(body))
    drawn = iter(["aaaaaaaa", "aaaaaaaa", "bbbbbbbb", "aaaaaaaa", "cccccccc"])
    monkeypatch.setattr("stores.keyring.secrets.token_hex", lambda _: next(drawn))
    keyring.allot_key_ids("default", 1, ["one", "two", "three"])
    keyring.allot_key_ids("default", 1, ["three", "one"])
    assert len(written) == 1
    ids = [keyring.key_id("default", 1, name).hex() for name in ("one", "two", "three")]
    assert ids == ["aaaaaaaa", "bbbbbbbb", "cccccccc"]


ALLOT = """
import json, sys
from pathlib import Path
from stores import keyring
path, passphrase, parameters, *names = sys.argv[1:]
keyring.ARGON2.update(json.loads(parameters))
opened = keyring.LocalKeyring(Path(path), passphrase.encode())
print(json.dumps({name: opened.key_id("default", 1, name).hex() for name in names}))
"""


def test_processes_that_allot_key_ids_at_once_agree(keyring: LocalKeyring, path: Path):
    names = [f"token/{number}" for number in range(8)]
    each = [names, names[::-1], [*names[4:], "one more"]]
    command = [sys.executable, "-c", ALLOT, path, PASSPHRASE, json.dumps(ARGON2)]
    processes = [subprocess.Popen([*command, *some], stdout=subprocess.PIPE) for some in each]
    got = [json.loads(process.communicate()[0]) for process in processes]
    merged = {name: value for one in got for name, value in one.items()}
    assert all(merged[name] == value for one in got for name, value in one.items())
    assert len(set(merged.values())) == len(merged) == 9
    again = opened(path)
    assert {name: again.key_id("default", 1, name).hex() for name in merged} == merged
    assert again.root("default", 0) == keyring.root("default", 0)


def test_tenants_never_share_a_derived_key(keyring: LocalKeyring):
    create_tenant_keys("acme", keyring)
    one, other = TenantKeys("default", keyring), TenantKeys("acme", keyring)
    assert one.token_key("ip").key != other.token_key("ip").key
    assert one.token_key("ip").key != one.token_key("user").key
    assert one.identity_key("subject") != other.identity_key("subject")
    assert one.identity_key("subject") != one.identity_key("event")


def test_a_passphrase_is_read_without_its_line_end(tmp_path: Path):
    file = tmp_path / "passphrase"
    file.write_text("  secret words\n")
    file.chmod(0o600)
    assert read_passphrase(file) == b"secret words"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_passphrase_that_others_can_read_is_refused(tmp_path: Path, mode: int):
    file = tmp_path / "passphrase"
    file.write_text("secret words")
    file.chmod(mode)
    with pytest.raises(KeyringError, match="can be read by others") as raised:
        read_passphrase(file)
    assert "secret words" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "\n", "  \t\n"])
def test_an_empty_passphrase_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "passphrase"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(KeyringError, match="empty"):
        read_passphrase(file)


def test_a_generated_passphrase_is_long_private_and_left_alone(tmp_path: Path):
    file = tmp_path / "keys" / "passphrase"
    generate_passphrase(file)
    first = file.read_text()
    assert len(first.strip()) >= 43
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    generate_passphrase(file)
    assert file.read_text() == first
