"""Which addresses from a server are followed: every trick of the threat list."""

from __future__ import annotations

import socket

import pytest

from relayd.addressguard import AddressGuard, AddressRefused, SocketRefused, is_public, parse_url, where

PUBLIC = AddressGuard()
ON_SITE = AddressGuard(allow_private=True)


@pytest.mark.parametrize(
    "address",
    [
        "https://bucket.s3.amazonaws.com/",
        "https://bucket.s3.eu-west-1.amazonaws.com/?x=1",
        "https://my_bucket.s3.amazonaws.com:443/path%2Fkept",
        "https://52.216.0.1/bucket",
        "https://[2600:1f68::1]/bucket",
        "https://xn--bcher-kva.example/",
    ],
)
def test_a_public_https_address_is_followed_exactly_as_written(address: str) -> None:
    assert str(PUBLIC.parse(address)) == address.replace(":443", "") or str(PUBLIC.parse(address)) == address


@pytest.mark.parametrize(
    "address",
    [
        "http://bucket.s3.amazonaws.com/",
        "ftp://bucket.s3.amazonaws.com/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_x",
        "data:text/plain,x",
        "//bucket.s3.amazonaws.com/",
        "bucket.s3.amazonaws.com",
        "",
        "https://",
        "https:///path",
        "https://user@bucket.s3.amazonaws.com/",
        "https://user:password@bucket.s3.amazonaws.com/",
        "https://bucket.s3.amazonaws.com@127.0.0.1/",
        "https://bucket.s3.amazonaws.com\\@127.0.0.1/",
        "https://bucket.s3.amazonaws.com:22/",
        "https://bucket.s3.amazonaws.com:8443/",
        "https://bucket.s3.amazonaws.com:99999/",
        "https://bucket.s3.amazonaws.com:x/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://2130706433/",
        "https://①②⑦.0.0.1/",
        "https://127。0。0。1/",
        "https://0.0.0.0/",
        "https://10.1.2.3/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://198.18.0.1/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://[::]/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:a9fe:a9fe]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[64:ff9b:1::1]/",
        "https://[2002:7f00:1::]/",
        "https://[2002:a9fe:a9fe::1]/",
        "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
        "https://[2001:db8::1]/",
        "https://[fe80::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fd00:ec2::254]/",
        "https://[fc00::1]/",
        "https://[ff02::1]/",
        "https://[::7f00:1]/",
        "https://bucket.s3.amazonaws.com/\r\nX-Injected: 1",
        "https://bucket.s3.amazonaws.com/ ",
        "https://bucket.s3.amazonaws.com/\x00",
        "https://bucket.s3.amazonaws.com/" + "a" * 9000,
        "https://-bucket..example/",
    ],
)
def test_a_tricky_address_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused):
        PUBLIC.parse(address)


@pytest.mark.parametrize(
    "address", ["https://10.1.2.3/", "https://192.168.1.1:9000/", "https://[fd12::1]/", "http://127.0.0.1:4010/s3/x"]
)
def test_the_setting_opens_addresses_on_site(address: str) -> None:
    ON_SITE.parse(address)


@pytest.mark.parametrize(
    "address",
    [
        "https://169.254.169.254/",
        "https://[fe80::1]/",
        "https://0.0.0.0/",
        "https://[::ffff:169.254.169.254]/",
        "https://224.0.0.1/",
        "https://[2002:a00:1::]/",
        "http://10.1.2.3/",
        "http://storage.local/",
    ],
)
def test_the_setting_opens_neither_metadata_services_nor_plain_http(address: str) -> None:
    with pytest.raises(AddressRefused):
        ON_SITE.parse(address)


def test_plain_http_on_site_needs_both_settings() -> None:
    AddressGuard(allow_private=True, allow_plain_http=True).parse("http://10.1.2.3/")
    with pytest.raises(AddressRefused):
        AddressGuard(allow_plain_http=True).parse("http://bucket.s3.amazonaws.com/")


@pytest.mark.parametrize(
    ("host", "is_listed"),
    [
        ("amazonaws.com", True),
        ("b.s3.amazonaws.com", True),
        ("B.S3.AmazonAWS.com", True),
        ("b.s3.amazonaws.com.", True),
        ("evilamazonaws.com", False),
        ("amazonaws.com.evil.example", False),
        ("52.216.0.1", False),
    ],
)
def test_a_suffix_list_admits_the_domain_and_what_is_below_it(host: str, is_listed: bool) -> None:
    guard = AddressGuard(suffixes=("amazonaws.com",))
    if is_listed:
        guard.parse(f"https://{host}/")
    else:
        with pytest.raises(AddressRefused):
            guard.parse(f"https://{host}/")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0"])
def test_no_socket_is_opened_to_what_a_name_turned_out_to_be(address: str) -> None:
    with pytest.raises(SocketRefused, match="not a public address"):
        PUBLIC.open_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)))


@pytest.mark.parametrize("address", ["::1", "::ffff:10.0.0.1", "fe80::1%eth0", "64:ff9b::a00:1", "2002:a00:1::"])
def test_no_socket_is_opened_to_a_hidden_address(address: str) -> None:
    with pytest.raises(SocketRefused):
        PUBLIC.open_socket((socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 443, 0, 0)))


def test_a_socket_to_a_public_address_is_opened_through_nat64_too() -> None:
    PUBLIC.open_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("52.216.0.1", 443))).close()
    PUBLIC.open_socket((socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("64:ff9b::34d8:1", 443, 0, 0))).close()


def test_our_table_is_at_least_as_strict_as_the_library() -> None:
    import ipaddress
    import random

    draw = random.Random(7)
    for _ in range(20_000):
        four = ipaddress.IPv4Address(draw.getrandbits(32))
        assert four.is_global or not is_public(four), four
        six = ipaddress.IPv6Address(draw.getrandbits(128) >> draw.randrange(4))
        assert six.is_global or not is_public(six), six


def test_a_place_in_words_has_no_query_and_no_user() -> None:
    assert where(parse_url("https://host.example:8443/a/b?X-Amz-Signature=secret")) == "host.example:8443/a/b"
