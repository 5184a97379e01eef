with decisions as (
    select
        event_id,
        event_date,
        validation_id,
        username_token,
        address_country,
        decision,
        reasons,
        requested_at,
        decided_at
    from {{ ref('stg_masked__validations') }}
    where {{ in_window('event_date') }}
)

-- Within the date: a decision of another day could not be replaced by dates. Changes have rising ids.
select
    event_date,
    validation_id,
    arg_max(username_token, event_id) as username_token,
    arg_max(address_country, event_id) as address_country,
    arg_max(decision, event_id) as decision,
    arg_max(coalesce(reasons, ''), event_id) as reasons,
    arg_max(requested_at, event_id) as requested_at,
    arg_max(decided_at, event_id) as decided_at,
    cast(
        greatest(date_diff('millisecond', arg_max(requested_at, event_id), arg_max(decided_at, event_id)), 0)
        as bigint
    ) as milliseconds_to_decision,
    count(*) as decisions
from decisions
group by event_date, validation_id
