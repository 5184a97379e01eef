-- IANA's names of well-known ports. A port is a guess: anything may speak on it.
with services as (
    select
        listed.protocol,
        listed.port,
        listed.service
    from (
        values
        (6, 21, 'ftp'),
        (6, 22, 'ssh'),
        (6, 23, 'telnet'),
        (6, 25, 'smtp'),
        (6, 53, 'domain'),
        (6, 80, 'http'),
        (6, 110, 'pop3'),
        (6, 143, 'imap'),
        (6, 179, 'bgp'),
        (6, 389, 'ldap'),
        (6, 443, 'https'),
        (6, 445, 'microsoft-ds'),
        (6, 502, 'mbap'),
        (6, 554, 'rtsp'),
        (6, 587, 'submission'),
        (6, 631, 'ipp'),
        (6, 853, 'domain-s'),
        (6, 993, 'imaps'),
        (6, 995, 'pop3s'),
        (6, 1883, 'mqtt'),
        (6, 2049, 'nfs'),
        (6, 3306, 'mysql'),
        (6, 3389, 'ms-wbt-server'),
        (6, 5060, 'sip'),
        (6, 5432, 'postgresql'),
        (6, 5671, 'amqps'),
        (6, 5672, 'amqp'),
        (6, 8883, 'secure-mqtt'),
        (17, 53, 'domain'),
        (17, 67, 'bootps'),
        (17, 68, 'bootpc'),
        (17, 69, 'tftp'),
        (17, 123, 'ntp'),
        (17, 137, 'netbios-ns'),
        (17, 138, 'netbios-dgm'),
        (17, 161, 'snmp'),
        (17, 162, 'snmptrap'),
        (17, 443, 'https'),
        (17, 500, 'isakmp'),
        (17, 514, 'syslog'),
        (17, 547, 'dhcpv6-server'),
        (17, 1812, 'radius'),
        (17, 1900, 'ssdp'),
        (17, 4500, 'ipsec-nat-t'),
        (17, 5060, 'sip'),
        (17, 5353, 'mdns'),
        (17, 5355, 'llmnr'),
        (17, 5683, 'coap'),
        (17, 5684, 'coaps')
    ) as listed (protocol, port, service)
),

-- The two ways of each flow, summed first: few rows for many packets.
ways as (
    select
        event_date,
        device_token,
        community_id_token,
        protocol,
        src_ip_token,
        dst_ip_token,
        src_port,
        dst_port,
        any_value(src_ip_prefix) as src_ip_prefix,
        any_value(dst_ip_prefix) as dst_ip_prefix,
        -- The place in the capture decides within a microsecond: a re-run must agree.
        min((occurred_at, block_id, record_offset)) as first_packet,
        min(occurred_at) as first_packet_at,
        max(occurred_at) as last_packet_at,
        count(*) as packets,
        sum(original_bytes) as original_bytes,
        sum(captured_bytes) as captured_bytes,
        bit_or(tcp_flags) as tcp_flags
    from {{ ref('stg_masked__packets') }}
    where
        {{ in_window('event_date') }}
        and community_id_token is not null
    group by
        event_date, device_token, community_id_token, protocol, src_ip_token, dst_ip_token, src_port, dst_port
),

opened as (
    select
        *,
        first_value(src_ip_token) over flow as opener_ip_token,
        first_value(src_ip_prefix) over flow as opener_ip_prefix,
        first_value(src_port) over flow as opener_port,
        first_value(dst_ip_token) over flow as responder_ip_token,
        first_value(dst_ip_prefix) over flow as responder_ip_prefix,
        first_value(dst_port) over flow as responder_port
    from ways
    window flow as (
        partition by event_date, device_token, community_id_token
        order by first_packet
    )
),

directed as (
    select
        *,
        -- By ports only where a host talks to itself: some protocols' flows have several.
        src_ip_token = opener_ip_token
        and (src_ip_token <> dst_ip_token or src_port is not distinct from opener_port) as is_from_opener
    from opened
),

flows as (
    select
        event_date,
        device_token,
        community_id_token,
        protocol,
        opener_ip_token,
        opener_ip_prefix,
        opener_port,
        responder_ip_token,
        responder_ip_prefix,
        responder_port,
        cast(sum(packets) as bigint) as packets,
        cast(coalesce(sum(packets) filter (where is_from_opener), 0) as bigint) as packets_from_opener,
        cast(sum(original_bytes) as bigint) as original_bytes,
        cast(coalesce(sum(original_bytes) filter (where is_from_opener), 0) as bigint) as bytes_from_opener,
        cast(sum(captured_bytes) as bigint) as captured_bytes,
        min(first_packet_at) as first_packet_at,
        max(last_packet_at) as last_packet_at,
        bit_or(tcp_flags) as tcp_flags
    from directed
    group by all
)

select
    flows.event_date,
    flows.device_token,
    flows.community_id_token,
    flows.protocol,
    -- A flow that began before the capture or the day may show its answer first.
    coalesce(responders.service, openers.service) as service,
    flows.opener_ip_token,
    flows.opener_ip_prefix,
    flows.opener_port,
    flows.responder_ip_token,
    flows.responder_ip_prefix,
    flows.responder_port,
    flows.packets,
    flows.packets_from_opener,
    flows.packets - flows.packets_from_opener as packets_from_responder,
    flows.original_bytes,
    flows.bytes_from_opener as original_bytes_from_opener,
    flows.original_bytes - flows.bytes_from_opener as original_bytes_from_responder,
    flows.captured_bytes,
    flows.first_packet_at,
    flows.last_packet_at,
    (epoch_us(flows.last_packet_at) - epoch_us(flows.first_packet_at)) / 1000000 as duration_s,
    flows.tcp_flags
from flows
left join services as responders
    on flows.protocol = responders.protocol and flows.responder_port = responders.port
left join services as openers
    on flows.protocol = openers.protocol and flows.opener_port = openers.port
