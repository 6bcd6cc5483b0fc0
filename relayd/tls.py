"""TLS as relayd speaks it: 1.2 or newer, always verified, authorities only from the configuration or the system.

Promises: no environment variable changes whom we trust, and verification cannot be turned off.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from relayd.errors import RelaydError

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Debian, Fedora, older RHEL, SUSE, Alpine."""

_EXPIRED = 10
_NOT_YET_VALID = 9
_WRONG_NAME = {62, 64}
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21}


class NoAuthorities(RelaydError):
    """The file with the certificate authorities is missing or unreadable."""


def client_context(ca_file: Path | None, *, protocol: str | None = "http/1.1") -> ssl.SSLContext:
    """A verifying context that trusts `ca_file`, or the system's bundle. Raises NoAuthorities with the remedy.

    `protocol` is announced to the server (ALPN); None announces nothing.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if protocol is not None:
        context.set_alpn_protocols([protocol])
    bundle = ca_file or _system_bundle()
    try:
        context.load_verify_locations(cafile=bundle)
    except (OSError, ssl.SSLError) as error:
        raise NoAuthorities(
            f"cannot read the certificate authorities in {bundle}: {error.strerror or type(error).__name__}; "
            "ca_file must name a PEM file"
        ) from None
    return context


def words(error: Exception) -> tuple[str, str]:
    """What a failed handshake means for a technician, and the remedy."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        reason = getattr(error, "reason", None) or type(error).__name__
        return (
            f"no TLS connection ({str(reason).replace('_', ' ').lower()})",
            "the server must speak TLS 1.2 or newer on this port; a captive portal may be in the way",
        )
    code = error.verify_code
    if code == _EXPIRED:
        return "its certificate has expired", "renew the server's certificate, or set this machine's clock right"
    if code == _NOT_YET_VALID:
        return "its certificate is not valid yet", "set this machine's clock right: it is probably behind"
    if code in _WRONG_NAME:
        return "its certificate belongs to another host", "check url; a captive portal may be in the way"
    if code in _UNKNOWN_ISSUER:
        return (
            "its certificate comes from an unknown authority",
            "set ca_file to the authority's certificate; a captive portal may be in the way",
        )
    return f"its certificate is not accepted ({error.verify_message})", "look at the server's certificate"


def _system_bundle() -> Path:
    for name in SYSTEM_BUNDLES:
        if Path(name).is_file():
            return Path(name)
    raise NoAuthorities("this system has no bundle of certificate authorities: install ca-certificates, or set ca_file")
