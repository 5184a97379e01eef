"""Column lineage of the marts, read from their SQL."""

from stores.dbt_lineage import load_lineage


def test_marts_are_followed_to_the_masked_columns():
    lineage = load_lineage()
    assert set(lineage) == {
        *("daily_logins", "device_activity", "user_sessions"),
        *("device_hours", "flows", "top_talkers"),
        *("validation_outcomes", "validation_rates", "validation_reasons"),
    }
    # A mart that is made of another one is followed through it.
    assert ("validations", "username_token") in lineage["validation_rates"]["people"]
    assert lineage["daily_logins"]["users"] == [("logins", "user_id_token")]
    assert lineage["daily_logins"]["networks"] == [("logins", "ip_net24"), ("logins", "ip_net48")]
    assert lineage["user_sessions"]["started_at"] == [("logins", "occurred_at")]


def test_a_bare_count_is_made_of_no_column():
    assert load_lineage()["daily_logins"]["logins"] == []


def test_marts_of_captures_are_followed_through_both_staging_views():
    lineage = load_lineage()
    assert lineage["flows"]["event_date"] == [("packets", "event_hour")]
    assert lineage["flows"]["opener_ip_token"] == [("packets", "src_ip_token")]
    assert lineage["flows"]["packets"] == []
    # Which side is the device's follows from the addresses of all packets of its day.
    sides = [f"{side}_{kind}_token" for side in ("dst", "src") for kind in ("ip", "mac")]
    assert lineage["top_talkers"]["peer_ip_token"] == [("packets", name) for name in sides]
    assert lineage["device_hours"]["peers"] == [("packets", name) for name in sides]


def test_only_made_up_columns_come_from_nowhere():
    """A count of rows, and the name that a list of ports gives."""
    bare = {
        (mart, column)
        for mart, columns in load_lineage().items()
        for column, found in columns.items()
        if not found
    }
    assert bare == {
        *((mart, "logins") for mart in ("daily_logins", "device_activity", "user_sessions")),
        *((mart, "packets") for mart in ("device_hours", "flows", "top_talkers")),
        ("flows", "service"),
        ("validation_outcomes", "decisions"),
        ("validation_rates", "validations"),
        ("validation_reasons", "rejections"),
    }
