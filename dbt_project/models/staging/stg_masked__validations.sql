with validations as (
    select *
    from {{ source('masked', 'validations') }}
    where {{ may_be_in_window('received_date', 'clock_skewed') }}
)

select
    event_id,
    cast(event_hour at time zone 'UTC' as date) as event_date,
    validation_id,
    username_token,
    address_country,
    decision,
    reasons,
    requested_at,
    occurred_at as decided_at
from validations
