{# The check hangs on the mart in the catalog, though the test reads its source as well. #}
{{ config(meta={'dagster': {'ref': {'name': 'validation_rates'}}}) }}

-- Folding moves validations between countries and loses none, on every date that may be shown at all.
with published as (
    select
        event_date,
        sum(validations) as validations
    from {{ ref('validation_rates') }}
    where {{ in_window('event_date') }}
    group by event_date
),

decided as (
    select
        event_date,
        count(*) as validations
    from {{ ref('validation_outcomes') }}
    where {{ in_window('event_date') }}
    group by event_date
    having count(distinct username_token) >= {{ var('k_threshold') | int }}
)

select event_date
from published
full outer join decided using (event_date)
where published.validations is distinct from decided.validations
