with logins as (
    select *
    from {{ source('masked', 'logins') }}
    where {{ may_be_in_window('received_date', 'clock_skewed') }}
)

select
    event_id,
    cast(event_hour at time zone 'UTC' as date) as event_date,
    occurred_at,
    user_id_token,
    device_id_token,
    coalesce(device_type, 'unknown') as device_type,
    app_version,
    coalesce(locale, 'unknown') as locale,
    -- An address is of one family, so at most one of the two is there.
    coalesce(ip_net24, ip_net48) as network
from logins
