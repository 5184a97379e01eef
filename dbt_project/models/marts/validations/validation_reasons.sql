with reasons as (
    select
        event_date,
        username_token,
        unnest(string_split(reasons, ',')) as reason
    from {{ ref('validation_outcomes') }}
    where
        {{ in_window('event_date') }}
        and decision = 'rejected'
)

select
    event_date,
    reason,
    count(*) as rejections,
    count(distinct username_token) as people
from reasons
group by event_date, reason
-- A reason that few people met is left out; one validation may have several, so nothing adds up to it.
having count(distinct username_token) >= {{ var('k_threshold') | int }}
