"""Community IDs: the published baseline, both directions, and no name where a flow cannot be told."""

import ipaddress

import polars as pl
import pytest

from transforms.capture.community import community_ids
from transforms.errors import UsageError

# baseline/baseline_deflt.json and baseline_seed1.json of github.com/corelight/community-id-spec:
# protocol, addresses, ports or what stands for them, the name with seed 0 and with seed 1.
BASELINE = [
    (
        58,
        "fe80::200:86ff:fe05:80da",
        "fe80::260:97ff:fe07:69ea",
        135,
        136,
        "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
        "1:kHa1FhMYIT6Ym2Vm2AOtoOARDzY=",
    ),
    (
        58,
        "fe80::260:97ff:fe07:69ea",
        "fe80::200:86ff:fe05:80da",
        136,
        135,
        "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
        "1:kHa1FhMYIT6Ym2Vm2AOtoOARDzY=",
    ),
    (
        58,
        "fe80::260:97ff:fe07:69ea",
        "fe80::200:86ff:fe05:80da",
        135,
        136,
        "1:zavyT/cezQr1fmImYCwYnMXbgck=",
        "1:2hSqmsDZ2kdcY9kbiUzOEBic0iM=",
    ),
    (
        58,
        "fe80::200:86ff:fe05:80da",
        "fe80::260:97ff:fe07:69ea",
        136,
        135,
        "1:zavyT/cezQr1fmImYCwYnMXbgck=",
        "1:2hSqmsDZ2kdcY9kbiUzOEBic0iM=",
    ),
    (
        58,
        "3ffe:501:1800:2345::2",
        "3ffe:507:0:1:200:86ff:fe05:80da",
        3,
        0,
        "1:2ObVBgIn28oZvibYZhZMBgh7WdQ=",
        "1:lVEtCZpYu84Xqaa++3lXFyuu2n4=",
    ),
    (
        58,
        "3ffe:501:410:0:2c0:dfff:fe47:33e",
        "3ffe:507:0:1:200:86ff:fe05:80da",
        1,
        4,
        "1:hLZd0XGWojozrvxqE0dWB1iM6R0=",
        "1:W8MHwXpWzpoSTD+cGcaJr4u0ys8=",
    ),
    (
        58,
        "3ffe:507:0:1:200:86ff:fe05:80da",
        "3ffe:501:0:1001::2",
        128,
        129,
        "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg=",
        "1:GfZxjAkDk2MkegpBYHV6tadtFXQ=",
    ),
    (
        58,
        "3ffe:501:0:1001::2",
        "3ffe:507:0:1:200:86ff:fe05:80da",
        129,
        128,
        "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg=",
        "1:GfZxjAkDk2MkegpBYHV6tadtFXQ=",
    ),
    (
        58,
        "fe80::200:86ff:fe05:80da",
        "ff02::2",
        133,
        134,
        "1:hO+sN4H+MG5MY/8hIrXPqc4ZQz0=",
        "1:L7Ka0ZMYu+J3bL4ulW2PrqyXNo8=",
    ),
    (
        58,
        "fe80::260:97ff:fe07:69ea",
        "ff02::1",
        134,
        133,
        "1:pkvHqCL88/tg1k4cPigmZXUtL00=",
        "1:K/ee5UCqAMAQXDorP5nSa2CGLjc=",
    ),
    (
        1,
        "192.168.0.89",
        "192.168.0.1",
        8,
        0,
        "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=",
        "1:03g6IloqVBdcZlPyX8r0hgoE7kA=",
    ),
    (
        1,
        "192.168.0.1",
        "192.168.0.89",
        0,
        8,
        "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=",
        "1:03g6IloqVBdcZlPyX8r0hgoE7kA=",
    ),
    (1, "10.0.0.1", "10.0.0.2", 11, 0, "1:YHxtAirCG//0OzkcVAukqKQN9xM=", "1:XjUibYHaafLQ3pxQeiMI8g25q20="),
    (
        6,
        "2001:470:e5bf:dead:4957:2174:e82c:4887",
        "2607:f8b0:400c:c03::1a",
        63943,
        25,
        "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
        "1:eJYTW6AOzFLlSUoESovMjnu7rMw=",
    ),
    (
        6,
        "2607:f8b0:400c:c03::1a",
        "2001:470:e5bf:dead:4957:2174:e82c:4887",
        25,
        63943,
        "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
        "1:eJYTW6AOzFLlSUoESovMjnu7rMw=",
    ),
    (
        132,
        "192.168.170.8",
        "192.168.170.56",
        7,
        7,
        "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs=",
        "1:5w3ZRjeKBzqT3zsaEECDGjUbYeg=",
    ),
    (
        132,
        "192.168.170.56",
        "192.168.170.8",
        7,
        7,
        "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs=",
        "1:5w3ZRjeKBzqT3zsaEECDGjUbYeg=",
    ),
    (
        6,
        "128.232.110.120",
        "66.35.250.204",
        34855,
        80,
        "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        "1:3V71V58M3Ksw/yuFALMcW0LAHvc=",
    ),
    (
        6,
        "66.35.250.204",
        "128.232.110.120",
        80,
        34855,
        "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        "1:3V71V58M3Ksw/yuFALMcW0LAHvc=",
    ),
    (
        17,
        "192.168.1.52",
        "8.8.8.8",
        54585,
        53,
        "1:d/FP5EW3wiY1vCndhwleRRKHowQ=",
        "1:Q9We8WO3piVF8yEQBNJF4uiSVrI=",
    ),
    (
        17,
        "8.8.8.8",
        "192.168.1.52",
        53,
        54585,
        "1:d/FP5EW3wiY1vCndhwleRRKHowQ=",
        "1:Q9We8WO3piVF8yEQBNJF4uiSVrI=",
    ),
    (
        46,
        "10.1.12.1",
        "10.1.12.2",
        None,
        None,
        "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw=",
        "1:rYir8gphR31noO9iDRQmF/BteEI=",
    ),
    (
        46,
        "10.1.12.2",
        "10.1.12.1",
        None,
        None,
        "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw=",
        "1:rYir8gphR31noO9iDRQmF/BteEI=",
    ),
]
PAIRS = {1: {0: 8, 9: 10, 13: 14, 15: 16, 17: 18}, 58: {128: 129, 130: 131, 133: 134, 135: 136, 139: 140}}


def row_of(protocol, src, dst, one, two):
    ips = [ipaddress.ip_address(text) for text in (src, dst)]
    row = {"protocol": protocol, "ip_version": ips[0].version}
    for name, ip in zip(("src", "dst"), ips, strict=True):
        number = int(ip) | (0xFFFF << 32 if ip.version == 4 else 0)
        row |= {f"{name}_ip_high": number >> 64, f"{name}_ip_low": number & (1 << 64) - 1}
    is_icmp = protocol in PAIRS
    row |= dict.fromkeys(("src_port", "dst_port", "icmp_type", "icmp_code"))
    if is_icmp:
        pairs = PAIRS[protocol] | {b: a for a, b in PAIRS[protocol].items()}
        return row | {"icmp_type": one, "icmp_code": 0 if pairs.get(one) == two else two}
    return row | {"src_port": one, "dst_port": two}


SCHEMA = {
    **dict.fromkeys(("src_ip_high", "src_ip_low", "dst_ip_high", "dst_ip_low"), pl.UInt64),
    **dict.fromkeys(("src_port", "dst_port"), pl.UInt16),
    **dict.fromkeys(("protocol", "ip_version", "icmp_type", "icmp_code"), pl.UInt8),
}


def frame_of(rows):
    return pl.DataFrame(rows, schema=SCHEMA)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_published_baseline(seed):
    frame = frame_of([row_of(*row[:5]) for row in BASELINE])
    assert community_ids(frame, seed).to_list() == [row[5 + seed] for row in BASELINE]


def test_rows_repeat_and_nulls_stay_in_place():
    one = row_of(17, "192.168.1.52", "8.8.8.8", 54585, 53)
    back = row_of(17, "8.8.8.8", "192.168.1.52", 53, 54585)
    other = dict.fromkeys(SCHEMA)
    fragment = one | {"src_port": None, "dst_port": None}
    cut = row_of(1, "10.0.0.1", "10.0.0.2", 8, 0) | {"icmp_type": None, "icmp_code": None}
    name = "1:d/FP5EW3wiY1vCndhwleRRKHowQ="
    ids = community_ids(frame_of([other, one, fragment, back, cut, one]))
    assert ids.to_list() == [None, name, None, name, None, name]
    assert (ids.name, ids.dtype) == ("community_id", pl.String)


def test_equal_addresses_are_ordered_by_their_ports():
    there, back = (row_of(6, "127.0.0.1", "127.0.0.1", *ports) for ports in ((80, 9), (9, 80)))
    ids = community_ids(frame_of([there, back]))
    assert ids[0] == ids[1]


def test_a_message_that_goes_one_way_is_not_turned():
    frame = frame_of([row_of(1, "10.0.0.2", "10.0.0.1", 11, 0)])
    # SHA-1 of 0000 0a000002 0a000001 0100 000b 0000, in the order that the packet has
    assert community_ids(frame).to_list() == ["1:c5iqfdGYsNWhMJVcYXWPNWbpnKs="]


def test_protocols_without_ports_are_named_by_their_addresses():
    with_ports = row_of(33, "10.1.12.1", "10.1.12.2", 7, 9)
    without = row_of(33, "10.1.12.2", "10.1.12.1", None, None)
    ids = community_ids(frame_of([with_ports, without]))
    assert ids[0] == ids[1] is not None


def test_no_rows():
    for frame in (frame_of([]), frame_of([dict.fromkeys(SCHEMA)])):
        assert community_ids(frame).to_list() == [None] * frame.height


@pytest.mark.parametrize("seed", [-1, 65536])
def test_a_seed_of_more_than_16_bits_is_refused(seed):
    with pytest.raises(UsageError, match="16 bits"):
        community_ids(frame_of([]), seed)
