-- What goes from one address to another in an hour, summed first: few rows for many packets.
with directions as (
    select
        event_date,
        event_hour,
        device_token,
        ip_version,
        src_ip_token,
        dst_ip_token,
        -- Hardware addresses tell the sides only where both are known.
        if(dst_mac_token is null, src_ip_token, coalesce(src_mac_token, src_ip_token)) as src_side,
        if(src_mac_token is null, dst_ip_token, coalesce(dst_mac_token, dst_ip_token)) as dst_side,
        any_value(src_ip_prefix) as src_ip_prefix,
        any_value(dst_ip_prefix) as dst_ip_prefix,
        min(occurred_at) as first_packet_at,
        count(*) as packets,
        sum(original_bytes) as original_bytes
    from {{ ref('stg_masked__packets') }}
    where {{ in_window('event_date') }}
    group by all
),

sides as (
    select
        event_date,
        device_token,
        ip_version,
        src_side as side,
        src_ip_token as ip_token,
        first_packet_at as first_sent_at,
        packets
    from directions
    where src_ip_token is not null
    union all
    select
        event_date,
        device_token,
        ip_version,
        dst_side as side,
        dst_ip_token as ip_token,
        null as first_sent_at,
        packets
    from directions
    where dst_ip_token is not null and src_side <> dst_side
),

ranked as (
    select
        event_date,
        device_token,
        ip_version,
        side,
        row_number() over (
            partition by event_date, device_token, ip_version
            -- A router in between takes part in as many packets, but for many addresses. Of two that
            -- are equal in that, the device is taken to be the one that spoke first.
            order by sum(packets) desc, count(distinct ip_token) asc, min(first_sent_at) asc, side asc
        ) as place
    from sides
    group by event_date, device_token, ip_version, side
    -- Whoever never sends is a group address, or somebody who is not there.
    having min(first_sent_at) is not null
),

device_sides as (
    select
        event_date,
        device_token,
        ip_version,
        side
    from ranked
    where place = 1
),

exchanged as (
    select
        directions.event_date,
        directions.event_hour,
        directions.device_token,
        directions.packets,
        directions.original_bytes,
        if(
            directions.src_side = device_sides.side, directions.dst_ip_token, directions.src_ip_token
        ) as peer_ip_token,
        if(
            directions.src_side = device_sides.side, directions.dst_ip_prefix, directions.src_ip_prefix
        ) as peer_ip_prefix
    from directions
    left join device_sides using (event_date, device_token, ip_version)
)

select
    event_date,
    event_hour,
    device_token,
    peer_ip_token,
    any_value(peer_ip_prefix) as peer_ip_prefix,
    cast(sum(packets) as bigint) as packets,
    cast(sum(original_bytes) as bigint) as original_bytes
from exchanged
group by event_date, event_hour, device_token, peer_ip_token
