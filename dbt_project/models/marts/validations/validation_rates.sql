{% set k = var('k_threshold') | int %}

with outcomes as (
    select
        event_date,
        address_country,
        username_token,
        decision,
        milliseconds_to_decision
    from {{ ref('validation_outcomes') }}
    where {{ in_window('event_date') }}
),

large_countries as (
    select
        event_date,
        address_country
    from outcomes
    group by event_date, address_country
    having count(distinct username_token) >= {{ k }}
),

by_country as (
    select outcomes.* replace (coalesce(large_countries.address_country, 'other') as address_country)
    from outcomes
    left join large_countries using (event_date, address_country)
),

sizes as (
    select
        event_date,
        address_country,
        count(distinct username_token) as people
    from by_country
    group by event_date, address_country
),

small_rests as (
    select event_date
    from sizes
    where people < {{ k }}
),

-- What is left of a date may be small still: then the smallest country goes along with it, since a
-- reader could work out what was dropped from the date's total.
taken_in as (
    select
        event_date,
        arg_min(address_country, (people, address_country)) as address_country
    from sizes
    where
        people >= {{ k }}
        and event_date in (select small_rests.event_date from small_rests)
    group by event_date
),

folded as (
    select
        by_country.* replace (
            if(taken_in.event_date is null, by_country.address_country, 'other') as address_country
        )
    from by_country
    left join taken_in using (event_date, address_country)
)

select
    event_date,
    address_country,
    count(*) as validations,
    count(distinct username_token) as people,
    cast(count_if(decision = 'accepted') as bigint) as accepted,
    count_if(decision = 'accepted') / count(*) as approval_rate,
    cast(median(milliseconds_to_decision) as bigint) as median_milliseconds,
    cast(quantile_cont(milliseconds_to_decision, 0.95) as bigint) as slow_milliseconds
from folded
group by event_date, address_country
having count(distinct username_token) >= {{ k }}
