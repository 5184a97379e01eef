with packets as (
    select *
    from {{ ref('stg_masked__packets') }}
    where {{ in_window('event_date') }}
),

peers_by_hour as (
    select
        event_hour,
        device_token,
        -- Packets without an IP address are a row of theirs with no peer.
        count(peer_ip_token) as peers
    from {{ ref('stg_masked__device_peers') }}
    where {{ in_window('event_date') }}
    group by event_hour, device_token
),

totals as (
    select
        event_date,
        event_hour,
        device_token,
        count(*) as packets,
        cast(sum(original_bytes) as bigint) as original_bytes,
        cast(sum(captured_bytes) as bigint) as captured_bytes,
        count(distinct protocol) as protocols,
        count(distinct community_id_token) as flows,
        min(occurred_at) as first_packet_at,
        max(occurred_at) as last_packet_at
    from packets
    group by event_date, event_hour, device_token
)

select
    totals.event_date,
    totals.event_hour,
    totals.device_token,
    totals.packets,
    totals.original_bytes,
    totals.captured_bytes,
    peers_by_hour.peers,
    totals.protocols,
    totals.flows,
    totals.first_packet_at,
    totals.last_packet_at
from totals
inner join peers_by_hour using (event_hour, device_token)
