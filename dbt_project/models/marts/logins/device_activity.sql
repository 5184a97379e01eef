select
    event_date,
    device_id_token,
    count(*) as logins,
    count(distinct user_id_token) as users,
    count(distinct network) as networks,
    min(occurred_at) as first_login_at,
    max(occurred_at) as last_login_at,
    -- The event's id decides between two logins of the same microsecond: a re-run must agree.
    arg_max(device_type, (occurred_at, event_id)) as device_type,
    arg_max(app_version, (occurred_at, event_id)) as app_version
from {{ ref('stg_masked__logins') }}
where
    {{ in_window('event_date') }}
    and device_id_token is not null
group by event_date, device_id_token
