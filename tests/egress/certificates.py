"""Certificates for servers of tests, of an authority that nobody else trusts."""

import ssl
from pathlib import Path

import trustme


class Authority:
    """Issues certificates.

    Args:
        folder: for the files.
        name: of the files.

    Attributes:
        ca_file: what a client has to trust.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._ca = trustme.CA()
        self._folder, self._name = folder, name
        self.ca_file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.ca_file))

    def issue(self, *names: str) -> Path:
        """A PEM file with a private key and its certificates, for names and addresses."""
        path = self._folder / f"{self._name}-{names[0]}.pem"
        self._ca.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(path))
        return path

    def server(self, *names: str) -> ssl.SSLContext:
        """What a server needs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.issue(*names))
        return context
