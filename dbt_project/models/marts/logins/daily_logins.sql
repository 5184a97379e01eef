{% set k = var('k_threshold') | int %}

with logins as (
    select
        event_date,
        device_type,
        locale,
        user_id_token,
        device_id_token,
        network
    from {{ ref('stg_masked__logins') }}
    where {{ in_window('event_date') }}
),

large_locales as (
    select
        event_date,
        device_type,
        locale
    from logins
    group by event_date, device_type, locale
    having count(distinct user_id_token) >= {{ k }}
),

-- First fold: the small locales of a device type together.
by_locale as (
    select logins.* replace (coalesce(large_locales.locale, 'other') as locale)
    from logins
    left join large_locales using (event_date, device_type, locale)
),

large_devices as (
    select
        event_date,
        device_type,
        locale
    from by_locale
    group by event_date, device_type, locale
    having count(distinct user_id_token) >= {{ k }}
),

-- Second fold: what is still small, over all device types of the date.
by_device as (
    select
        by_locale.* replace (
            coalesce(large_devices.device_type, 'other') as device_type,
            coalesce(large_devices.locale, 'other') as locale
        )
    from by_locale
    left join large_devices using (event_date, device_type, locale)
),

sizes as (
    select
        event_date,
        device_type,
        locale,
        count(distinct user_id_token) as users
    from by_device
    group by event_date, device_type, locale
),

-- Only what is left of a date can be small now.
small_rests as (
    select event_date
    from sizes
    where users < {{ k }}
),

-- It takes in the smallest group that would be published: dropped instead, it would be the
-- difference between the date's total, which is known elsewhere, and what is published.
taken_in as (
    select
        event_date,
        arg_min(device_type, (users, device_type, locale)) as device_type,
        arg_min(locale, (users, device_type, locale)) as locale
    from sizes
    where
        users >= {{ k }}
        and event_date in (select small_rests.event_date from small_rests)
    group by event_date
),

folded as (
    select
        by_device.* replace (
            if(taken_in.event_date is null, by_device.device_type, 'other') as device_type,
            if(taken_in.event_date is null, by_device.locale, 'other') as locale
        )
    from by_device
    left join taken_in using (event_date, device_type, locale)
)

select
    event_date,
    device_type,
    locale,
    count(*) as logins,
    count(distinct user_id_token) as users,
    count(distinct device_id_token) as devices,
    count(distinct network) as networks
from folded
group by event_date, device_type, locale
-- A date with fewer users than the threshold publishes nothing.
having count(distinct user_id_token) >= {{ k }}
