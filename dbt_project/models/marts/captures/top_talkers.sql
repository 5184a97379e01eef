with by_peer as (
    select
        event_date,
        device_token,
        peer_ip_token,
        any_value(peer_ip_prefix) as peer_ip_prefix,
        cast(sum(packets) as bigint) as packets,
        cast(sum(original_bytes) as bigint) as original_bytes
    from {{ ref('stg_masked__device_peers') }}
    where {{ in_window('event_date') }}
    group by event_date, device_token, peer_ip_token
),

-- Shares are of all bytes of the day, those of packets without an IP address among them.
shared as (
    select
        *,
        sum(original_bytes) over (partition by event_date, device_token) as bytes_of_day
    from by_peer
),

ranked as (
    select
        *,
        row_number() over (
            partition by event_date, device_token
            -- The token decides between equals: a re-run must agree.
            order by original_bytes desc, packets desc, peer_ip_token asc
        ) as place
    from shared
    where peer_ip_token is not null
)

select
    event_date,
    device_token,
    cast(place as integer) as rank,
    peer_ip_token,
    peer_ip_prefix,
    packets,
    original_bytes,
    coalesce(original_bytes / nullif(bytes_of_day, 0), 0) as share_of_bytes
from ranked
where place <= 20
