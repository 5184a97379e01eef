"""Passwords, secrets, scopes, and how other issuers' tokens say who somebody is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.access import Right
from transforms.credentials import (
    checked_name,
    hash_password,
    map_claims,
    narrow_scopes,
    parse_scopes,
    verify_password,
    write_scopes,
)
from transforms.errors import RefusedError, UsageError

CHEAP = {"memory_kib": 64, "passes": 1, "lanes": 1}
SALT = bytes(16)
PASSWORD = "correct horse battery"  # noqa: S105
# Access tokens as the providers' manuals show them, cut to the claims that matter.
AUTH0 = {
    "iss": "https://acme.example.auth0.com/",
    "sub": "7RbNLdpvIKjIMNTmWZpaeUC4oV4mVhlF@clients",
    "aud": "https://lockhouse.example/",
    "azp": "7RbNLdpvIKjIMNTmWZpaeUC4oV4mVhlF",
    "scope": "tables:read captures:read",
    "permissions": ["tables:read"],
    "gty": "client-credentials",
}
KEYCLOAK = {
    "iss": "https://sso.example/realms/acme",
    "sub": "0c9e7d6e-5d4b-4b0c-9a52-3e7b1f5d9c11",
    "aud": ["lockhouse", "account"],
    "typ": "Bearer",
    "azp": "soc-console",
    "scope": "email profile",
    "resource_access": {"lockhouse": {"roles": ["captures:read"]}, "account": {"roles": ["tables:read"]}},
}
COGNITO = {
    "iss": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_example",
    "sub": "76bl0gu16uemb7g94hs0gd11nn",
    "token_use": "access",
    "client_id": "76bl0gu16uemb7g94hs0gd11nn",
    "scope": "lockhouse/events:write other/tables:read",
}


def test_a_password_is_held_against_its_hash():
    stored = hash_password(PASSWORD, SALT, CHEAP)
    verify_password(PASSWORD, stored)
    assert PASSWORD not in stored


@given(st.text(max_size=300))
def test_no_other_password_fits(other: str):
    stored = hash_password(PASSWORD, SALT, CHEAP)
    if other != PASSWORD:
        with pytest.raises(RefusedError):
            verify_password(other, stored)


@pytest.mark.parametrize("password", ["", "short", "x" * 257])
def test_passwords_too_short_or_too_long_are_refused(password: str):
    with pytest.raises(UsageError, match="12 to 256"):
        hash_password(password, SALT, CHEAP)


def test_what_is_longer_than_a_password_may_be_is_wrong_even_where_its_beginning_fits():
    longest = "x" * 256
    with pytest.raises(RefusedError):
        verify_password(longest + "y", hash_password(longest, SALT, CHEAP))


@pytest.mark.parametrize("name", ["", "A", "a b", "a\n", "-a", "a" * 64, "a/b", "client:x", "ä"])
def test_names_that_could_not_stand_in_the_trail_are_refused(name: str):
    with pytest.raises(UsageError):
        checked_name(name)


@given(st.frozensets(st.sampled_from(list(Right))))
def test_scopes_are_read_as_they_are_written(scopes: frozenset[Right]):
    assert parse_scopes(write_scopes(scopes)) == scopes


@given(st.frozensets(st.sampled_from(list(Right))), st.frozensets(st.sampled_from(list(Right))))
def test_a_token_never_holds_more_than_its_client(asked: frozenset[Right], held: frozenset[Right]):
    if asked <= held:
        assert narrow_scopes(write_scopes(asked), held) == (asked or held)
    else:
        with pytest.raises(RefusedError):
            narrow_scopes(write_scopes(asked), held)


def test_an_unknown_scope_is_told_from_one_that_is_not_held():
    with pytest.raises(UsageError, match="unknown scope"):
        parse_scopes("tables:write")


def test_auth0_grants_by_permissions_and_not_by_what_was_asked():
    found = map_claims("auth0", "auth0", AUTH0)
    assert found.scopes == {Right.READ_TABLES}
    assert found.client == AUTH0["azp"]
    assert found.principal == f"auth0:{AUTH0['sub']}"
    without = {name: value for name, value in AUTH0.items() if name != "permissions"}
    assert map_claims("auth0", "auth0", without).scopes == {Right.READ_TABLES, Right.READ_CAPTURES}


def test_keycloak_grants_by_the_roles_of_this_resource_alone():
    found = map_claims("sso", "keycloak", KEYCLOAK, "lockhouse")
    assert found.scopes == {Right.READ_CAPTURES}
    assert (found.principal, found.client) == (f"sso:{KEYCLOAK['sub']}", "soc-console")


def test_cognito_puts_the_resource_server_in_front():
    found = map_claims("aws", "cognito", COGNITO, "lockhouse")
    assert found.scopes == {Right.INGEST}
    assert found.client == COGNITO["client_id"]


@pytest.mark.parametrize("subject", [None, 7, "", "a b", "a\nb", "x" * 129])
def test_a_token_without_a_subject_that_can_be_written_down_is_refused(subject: object):
    with pytest.raises(RefusedError):
        map_claims("plain", "plain", {"sub": subject, "scope": "tables:read"})


@pytest.mark.parametrize("access", [None, [], {"lockhouse": []}, {"lockhouse": {"roles": "tables:read"}}, "x"])
def test_claims_of_another_shape_give_nothing_that_was_not_said(access: object):
    claims = {"sub": "x", "resource_access": access, "scope": 5}
    assert map_claims("sso", "keycloak", claims, "lockhouse").scopes <= {Right.READ_TABLES}
