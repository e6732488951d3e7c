"""What nginx is told: once as the floor to compare with, once as the TLS side of the upstream."""

_FRAME = """\
master_process off; daemon off; pid {folder}/{name}.pid; error_log stderr error;
worker_rlimit_nofile {files};
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_buffer_size 1m; proxy_buffering off;
  client_body_temp_path {folder}/{name}.body; proxy_temp_path {folder}/{name}.proxy;
  fastcgi_temp_path {folder}/{name}.1; uwsgi_temp_path {folder}/{name}.2;
  scgi_temp_path {folder}/{name}.3;
  proxy_http_version 1.1; proxy_set_header Connection "";
{servers}
}}
"""

_FLOOR = """\
  upstream plain {{ server 127.0.0.1:{upstream}; keepalive 2048; }}
  upstream secure {{ server 127.0.0.1:{tls}; keepalive 2048; }}
  proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca}; proxy_ssl_name localhost;
  server {{ listen 127.0.0.1:{plain_port} backlog=4096;
            location / {{ proxy_buffering on; proxy_pass http://plain; }} }}
  server {{ listen 127.0.0.1:{stream_port} backlog=4096;
            location / {{ proxy_pass http://plain; }} }}
  server {{ listen 127.0.0.1:{tls_port} backlog=4096;
            location / {{ proxy_pass https://secure; }} }}
"""

_TLS_SIDE = """\
  upstream plain {{ server 127.0.0.1:{upstream}; keepalive 2048; }}
  http2_max_concurrent_streams 4096;
  server {{ listen 127.0.0.1:{port} ssl http2 backlog=4096;
            ssl_certificate {certificate}; ssl_certificate_key {certificate};
            location / {{ proxy_pass http://plain; }} }}
"""

FILES = 16384


def _framed(folder: str, name: str, servers: str) -> str:
    return _FRAME.format(folder=folder, name=name, files=FILES, servers=servers)


def floor(folder: str, ports: dict[str, int], *, ca: str) -> str:
    """A plain reverse proxy: for plain answers, for streams, for streams from a TLS upstream."""
    return _framed(folder, "floor", _FLOOR.format(ca=ca, **ports))


def tls_side(folder: str, name: str, *, upstream: int, port: int, certificate: str) -> str:
    """A server that speaks TLS, with HTTP/1.1 and HTTP/2, for an upstream that does not."""
    servers = _TLS_SIDE.format(upstream=upstream, port=port, certificate=certificate)
    return _framed(folder, name, servers)
