"""Column lineage of the marts, read from their SQL."""

from stores.dbt_lineage import load_lineage


def test_marts_are_followed_to_the_masked_columns():
    lineage = load_lineage()
    assert set(lineage) == {"daily_logins", "device_activity", "user_sessions"}
    assert lineage["daily_logins"]["users"] == [("logins", "user_id_token")]
    assert lineage["daily_logins"]["networks"] == [("logins", "ip_net24"), ("logins", "ip_net48")]
    assert lineage["user_sessions"]["started_at"] == [("logins", "occurred_at")]


def test_a_bare_count_is_made_of_no_column():
    assert load_lineage()["daily_logins"]["logins"] == []
