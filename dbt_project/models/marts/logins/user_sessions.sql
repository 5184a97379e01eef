{% set gap = var('session_gap_minutes') | int %}

with logins as (
    select
        event_date,
        event_id,
        user_id_token,
        device_id_token,
        network,
        occurred_at
    from {{ ref('stg_masked__logins') }}
    where {{ in_window('event_date') }}
),

-- Partitioned by date as well: a session that crossed midnight could not be replaced by dates.
starts as (
    select
        *,
        coalesce(
            occurred_at - lag(occurred_at) over (
                partition by user_id_token, event_date
                order by occurred_at, event_id
            ) > interval '{{ gap }} minutes',
            true
        ) as is_start
    from logins
),

numbered as (
    select
        *,
        count_if(is_start) over (
            partition by user_id_token, event_date
            order by occurred_at, event_id
            rows unbounded preceding
        ) as session_number
    from starts
)

select
    event_date,
    user_id_token,
    cast(session_number as integer) as session_number,
    min(occurred_at) as started_at,
    max(occurred_at) as ended_at,
    count(*) as logins,
    count(distinct device_id_token) as devices,
    count(distinct network) as networks
from numbered
group by event_date, user_id_token, session_number
