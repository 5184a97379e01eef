with packets as (
    select *
    from {{ source('masked', 'packets') }}
    -- Judged by the partition column alone, so that files of other hours are not read. As text:
    -- DuckDB leaves out files by a comparison that cannot fail, and a cast to a date can.
    where {{ in_window('left(packet_hour, 10)') | replace("date '", "'") }}
)

select
    block_id,
    record_offset,
    cast(event_hour at time zone 'UTC' as date) as event_date,
    event_hour,
    occurred_at,
    device_token,
    captured_bytes,
    original_bytes,
    ip_version,
    protocol,
    src_mac_token,
    dst_mac_token,
    src_ip_token,
    dst_ip_token,
    src_ip_prefix,
    dst_ip_prefix,
    src_port,
    dst_port,
    tcp_flags,
    community_id_token
from packets
