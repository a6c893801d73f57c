"""nginx in the gateway's place: its configuration, with the node key of each certificate.

It checks what the gateway checks: the certificate, the paths, that a certificate's site speaks as
its own node, sizes, rates and deadlines. It knows who is enrolled as of its last reload, and does
not look into what a hospital sends: neither whose message it announces nor how much in a minute.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from fedward_common import __version__
from fedward_common.messages import PROTOCOL_VERSION
from fedward_server.consortium import CRL, TLS, admitted, gateway_of, issued_serials
from fedward_server.gateway_limits import (
    BODY_SECONDS,
    BURST,
    CONNECTIONS_PER_SITE,
    FLEET_PATHS,
    HEADER_BYTES,
    HEADER_SECONDS,
    KEEP_ALIVE_SECONDS,
    REQUESTS_PER_SECOND,
    SEND_SECONDS,
    UPSTREAM_SECONDS,
)
from fedward_server.superlink import HOST, LINK_FOLDER

_HTTP = """\
# Made by `fedward-server nginx`. Make it again and reload nginx after each enrol and revoke.
# Include it in nginx's http block; start the server with `fedward-server run --nginx {port}`.
map $ssl_client_serial $fedward_node_key {{
    default "";
{keys}
}}
limit_req_zone $ssl_client_serial zone=fedward_rate:1m rate={rate:.0f}r/s;
limit_conn_zone $ssl_client_serial zone=fedward_connections:1m;

server {{
    listen {listen} ssl;
    ssl_protocols TLSv1.3;
    ssl_certificate {server}/{tls};
    ssl_certificate_key {server}/{tls};
    ssl_client_certificate {server}/authority/certificate;
    ssl_crl {server}/authority/{crl};
    ssl_verify_client on;
    ssl_session_cache off;
    ssl_session_tickets off;
    server_tokens off;
    access_log off;
    client_header_timeout {header:.0f}s;
    client_body_timeout {body:.0f}s;
    send_timeout {send:.0f}s;
    keepalive_timeout {keep:.0f}s;
    client_header_buffer_size 4k;
    large_client_header_buffers 4 {header_bytes};
    limit_req zone=fedward_rate burst={burst:.0f} nodelay;
    limit_req_status 429;
    limit_conn fedward_connections {connections};
    limit_conn_status 429;

    location = /v1/time {{
        if ($request_method != GET) {{ return 404; }}
        default_type application/json;
        return 200 '{{"unix_time": $msec, "protocol": {protocol}, "package": "{package}"}}';
    }}
{paths}
    location / {{
        return 404;
    }}
}}
"""

_LOCATION = """\
    location = {path} {{
        if ($request_method != POST) {{ return 404; }}
        if ($http_flwr_public_key != $fedward_node_key) {{ return 403; }}
        if ($fedward_node_key = "") {{ return 403; }}
        client_max_body_size {limit};
        set $args "";
        proxy_pass https://{host}:{port}{path};
        proxy_http_version 1.1;
        proxy_request_buffering off;
        proxy_buffering off;
        proxy_read_timeout {upstream:.0f}s;
        proxy_set_header Host {host};
        proxy_set_header Connection "";
        proxy_pass_request_headers off;
        proxy_set_header flwr-public-key $fedward_node_key;
{headers}
        proxy_hide_header Set-Cookie;
        proxy_ssl_verify on;
        proxy_ssl_name localhost;
        proxy_ssl_trusted_certificate {server}/{link}/authority.crt;
    }}"""


_HEADERS = (
    "content-type", "accept", "flwr-timestamp", "flwr-signature", "flwr-package-name",
    "flwr-package-version", "flwr-component-name",
)  # fmt: skip
"""What passes of a request's headers, beside the node's key."""


def nginx_configuration(server: Path, port: int, now: datetime) -> str:
    """The configuration for a SuperLink on loopback ``port``."""
    place = server.resolve()
    gateway = gateway_of(place)
    paths = "\n".join(
        _LOCATION.format(
            path=path,
            limit=limit,
            host=HOST,
            port=port,
            upstream=UPSTREAM_SECONDS,
            headers="\n".join(map(_header, _HEADERS)),
            server=place,
            link=LINK_FOLDER,
        )
        for path, limit in FLEET_PATHS.items()
    )
    return _HTTP.format(
        port=port,
        keys="\n".join(_keys(place, now)),
        rate=REQUESTS_PER_SECOND,
        burst=BURST,
        listen=gateway.listen,
        server=place,
        tls=TLS,
        crl=CRL,
        header=HEADER_SECONDS,
        body=BODY_SECONDS,
        send=SEND_SECONDS,
        keep=KEEP_ALIVE_SECONDS,
        header_bytes=HEADER_BYTES,
        connections=CONNECTIONS_PER_SITE,
        protocol=PROTOCOL_VERSION,
        package=__version__,
        paths=paths,
    )


def _header(name: str) -> str:
    return f"        proxy_set_header {name} $http_{name.replace('-', '_')};"


def _keys(server: Path, now: datetime) -> list[str]:
    """A line for each good certificate: its serial number, and Flower's header of its key."""
    names = {hashlib.sha256(key).hexdigest(): key for key in admitted(server, now)}
    lines = []
    for serial, digest in issued_serials(server):
        if digest in names:
            public = load_der_public_key(names[digest])
            pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            header = base64.b64encode(pem).decode("ascii")
            lines.append(f'    "{_as_nginx(serial)}" "{header}";')
    return lines


def _as_nginx(serial: int) -> str:
    """OpenSSL's spelling: whole bytes, capital letters."""
    text = f"{serial:X}"
    return text if len(text) % 2 == 0 else f"0{text}"
