"""A real nginx in front of the web UI, and pages of another site that show it in a frame."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.browser.conftest import wait_for

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
_CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
  proxy_http_version 1.1;
  {servers}
}}
"""


@contextmanager
def run_nginx(folder: Path, servers: str, port: int) -> Iterator[None]:
    """Serves what `servers` says until the context ends; `port` is one of its plain HTTP ports."""
    if not Path(NGINX).exists():
        say = pytest.fail if "browser" in os.environ.get("TESTS_MAY_NOT_SKIP", "") else pytest.skip
        say("no nginx: install the package `nginx` of Debian or Ubuntu")
    make_certificate(folder)
    (folder / "nginx.conf").write_text(_CONFIG.format(folder=folder, servers=servers))
    with open(folder / "nginx.log", "wb") as log:
        process = subprocess.Popen([NGINX, "-p", str(folder), "-c", "nginx.conf"], stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/", process, folder / "nginx.log")
        yield
    finally:
        process.terminate()
        process.wait(10)


def make_certificate(folder: Path) -> None:
    """A certificate that nobody signed, for any host of the tests."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = (
        builder.not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("*.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
