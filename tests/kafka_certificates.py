"""An authority, a broker's and a client's certificates, made by the openssl of this machine for tests."""

import os
import pathlib
import shutil
import subprocess

import pytest

PASSWORD = "key-secret"


def _openssl(folder, *arguments):
    subprocess.run(["openssl", *map(str, arguments)], cwd=folder, check=True, capture_output=True)


def _authority(folder, name):
    _openssl(folder, "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", f"{name}.key")
    _openssl(
        folder, "req", "-x509", "-new", "-key", f"{name}.key", "-days", "30", "-subj", f"/CN={name}", "-out", f"{name}.pem",
        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip


def _signed(folder, name, authority, names):
    """A PKCS#8 key, a certificate, and both in one file as Kafka's PEM keystore wants them."""
    _openssl(folder, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", f"{name}.key")
    _openssl(folder, "req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
    (folder / f"{name}.ext").write_text(f"subjectAltName={names}\n")
    _openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial",
        "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}.crt",
    )  # fmt: skip
    both = (folder / f"{name}.key").read_text() + (folder / f"{name}.crt").read_text()
    (folder / f"{name}.pem").write_text(both)


def make_certificates(folder: pathlib.Path) -> pathlib.Path:
    """`authority.pem`, `stranger.pem`; `broker`, `elsewhere` (another host's name) and `client` as .key, .crt and both as .pem;
    `client-locked.pem`, its key encrypted with PASSWORD."""
    if shutil.which("openssl") is None:
        (pytest.fail if os.environ.get("CI") in ("true", "1") else pytest.skip)("certificates for tests need openssl")
    folder.mkdir(parents=True, exist_ok=True)
    _authority(folder, "authority")
    _authority(folder, "stranger")
    _signed(folder, "broker", "authority", "IP:127.0.0.1,DNS:localhost")
    _signed(folder, "elsewhere", "authority", "DNS:elsewhere.example")
    _signed(folder, "client", "authority", "DNS:client")
    _openssl(
        folder,
        "pkcs8",
        "-topk8",
        "-in",
        "client.key",
        "-out",
        "client-locked.key",
        "-passout",
        f"pass:{PASSWORD}",
        "-v2",
        "aes-256-cbc",
    )
    locked = (folder / "client-locked.key").read_text() + (folder / "client.crt").read_text()
    (folder / "client-locked.pem").write_text(locked)
    return folder
