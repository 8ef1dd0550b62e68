"""The TLS side of a Kafka connection: from Java's `ssl.*` keys, or librdkafka's, to an `ssl.SSLContext`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.errors import ConfigError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

Say = Callable[[str, str, str], None]
"""Takes (key, what is wrong, what to do)."""
PEM = b"-----BEGIN "
TRUST_TO_PEM = (
    "make a PEM file of it: keytool -list -rfc -keystore {} > ca.pem; "
    "then ssl.truststore.type=PEM and ssl.truststore.location=ca.pem"
)
KEYS_TO_PEM = (
    "make a PEM file of it: keytool -importkeystore -srckeystore {0} -destkeystore k.p12 -deststoretype PKCS12, then "
    "openssl pkcs12 -in k.p12 -nodes -out client.pem; then ssl.keystore.type=PEM and ssl.keystore.location=client.pem"
)
VERSIONS = ("TLSv1.2", "TLSv1.3")


@dataclass(frozen=True)
class Material:
    """Certificates or a key: the path of a PEM file, or the PEM text itself; `key` is the option that names it."""

    key: str
    path: str = ""
    pem: str = ""

    def data(self) -> bytes:
        """The PEM text. ConfigError where the file cannot be read or holds none."""
        if not self.path:
            return self.pem.encode()
        try:
            with open(self.path, "rb") as file:
                found = file.read(1 << 20)
        except OSError as error:
            raise ConfigError(f"{self.key}: {self.path}: {error.strerror}", "check the path and who may read it") from error
        if PEM not in found:
            template = KEYS_TO_PEM if "keystore" in self.key else TRUST_TO_PEM
            kind = "a Java keystore (JKS)" if found[:4] == b"\xfe\xed\xfe\xed" else "no PEM file (PKCS#12 or DER?)"
            raise ConfigError(f"{self.key}: {self.path} is {kind}: Python reads PEM only", template.format(self.path))
        return found


@dataclass(frozen=True)
class Tls:
    """What a TLS connection is made with. Without `trusted` the system's authorities are trusted."""

    trusted: Material | None = None
    certificate: Material | None = None
    private_key: Material | None = None
    key_password: str = ""
    revoked: Material | None = None
    check_hostname: bool = True
    verify: bool = True
    ciphers: str = ""
    versions: tuple[str, ...] = VERSIONS

    def context(self) -> ssl.SSLContext:
        """A new context; reads the files, so a rotated certificate is taken up by the next connection's context.
        ConfigError with what is wrong with them."""
        import ssl

        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_2 if "TLSv1.2" in self.versions else ssl.TLSVersion.TLSv1_3
        made.maximum_version = ssl.TLSVersion.TLSv1_3 if "TLSv1.3" in self.versions else ssl.TLSVersion.TLSv1_2
        made.check_hostname = self.check_hostname and self.verify
        made.verify_mode = ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE
        self._trust(made)
        self._identify(made)
        if self.ciphers:
            try:
                made.set_ciphers(self.ciphers)
            except ssl.SSLError as error:
                raise ConfigError(
                    f"ssl.cipher.suites: {_reason(error)}",
                    "write OpenSSL's names, as in `openssl ciphers`, joined by colons",
                ) from error
        return made

    def _trust(self, made: ssl.SSLContext) -> None:
        import ssl

        if self.trusted is None:
            made.load_default_certs()
        else:
            text = self.trusted.data().decode("ascii", "ignore")
            try:
                made.load_verify_locations(cadata=text)
            except (ssl.SSLError, ValueError) as error:
                raise ConfigError(
                    f"{self.trusted.key}: holds no certificate that can be read ({_reason(error)})", _BEGIN
                ) from error
        if self.revoked is not None:
            if b"-----BEGIN X509 CRL" not in self.revoked.data():
                raise ConfigError(f"{self.revoked.key}: holds no revocation list", "it holds lines -----BEGIN X509 CRL-----")
            made.load_verify_locations(cafile=self.revoked.path)
            made.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF

    def _identify(self, made: ssl.SSLContext) -> None:
        import ssl

        if self.certificate is None:
            return
        key = self.private_key or self.certificate
        with _file(self.certificate) as chain, _file(key) as private:
            try:
                made.load_cert_chain(chain, private, lambda: self.key_password)
            except ssl.SSLError as error:
                raise ConfigError(*_refused_key(key, error, bool(self.key_password))) from error
            except OSError as error:
                raise ConfigError(f"{self.certificate.key}: {error.strerror}", "check the path and who may read it") from error


_BEGIN = "a PEM file holds lines -----BEGIN CERTIFICATE-----"


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error).lower().replace("_", " ")


def _refused_key(key: Material, error: ssl.SSLError, password: bool) -> tuple[str, str]:
    reason = _reason(error)
    if "mismatch" in reason:
        return f"{key.key}: the private key belongs to another certificate", "give the key and the certificate of one pair"
    if any(word in reason for word in ("decrypt", "password", "pem lib", "bad read", "empty")) and b"ENCRYPTED" in key.data():
        what = "the password of the private key is wrong" if password else "the private key is encrypted and no password is given"
        return f"{key.key}: {what}", "set ssl.key.password, as ${NAME} or ${file:/path}"
    return f"{key.key}: holds no certificate with its private key ({reason})", (
        "a PEM keystore holds a PKCS#8 key (-----BEGIN PRIVATE KEY-----) and the certificate chain, leaf first"
    )


@contextmanager
def _file(one: Material) -> Iterator[str]:
    """A path that OpenSSL can read. Text from a configuration lies in memory only, never on a disk."""
    data = one.data()
    if one.path:
        yield one.path
        return
    descriptor = os.memfd_create("smart-tuner-pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def tls_of(values: Mapping[str, str], say: Say) -> Tls:
    """What the keys say; reads no file. What is wrong goes to `say`."""
    certificate, private_key = _identity(values, say)
    verification = values.get("enable.ssl.certificate.verification", "true").lower()
    algorithm = values.get("ssl.endpoint.identification.algorithm", "https").lower()
    if algorithm not in ("https", "", "none"):
        say(
            "ssl.endpoint.identification.algorithm",
            f'"{algorithm}" is not known',
            "write https, or leave it empty to accept any host name",
        )
    revoked = values.get("ssl.crl.location")
    return Tls(
        _trusted(values, say),
        certificate,
        private_key,
        values.get("ssl.key.password") or values.get("ssl.keystore.password", ""),
        Material("ssl.crl.location", revoked) if revoked else None,
        check_hostname=algorithm == "https",
        verify=verification not in ("false", "no"),
        ciphers=values.get("ssl.cipher.suites", "").replace(",", ":"),
        versions=_versions(values, say),
    )


def _versions(values: Mapping[str, str], say: Say) -> tuple[str, ...]:
    wanted = tuple(one.strip() for one in values.get("ssl.enabled.protocols", "").split(",") if one.strip())
    strange = [one for one in wanted if one not in VERSIONS]
    if strange:
        say("ssl.enabled.protocols", f"{', '.join(strange)} is not offered", "write TLSv1.2,TLSv1.3, or remove it")
    return tuple(one for one in wanted if one in VERSIONS) or VERSIONS


def _trusted(values: Mapping[str, str], say: Say) -> Material | None:
    found = [
        Material(key, **{kind: values[key]})
        for key, kind in (
            ("ssl.truststore.certificates", "pem"),
            ("ssl.truststore.location", "path"),
            ("ssl.ca.location", "path"),
            ("ssl.ca.pem", "pem"),
        )
        if values.get(key)
    ]
    _only_pem(values, "ssl.truststore", TRUST_TO_PEM, say)
    if len(found) > 1:
        say(found[1].key, f"{found[0].key} says already whom to trust", "keep one of them")
    return found[0] if found else None


def _identity(values: Mapping[str, str], say: Say) -> tuple[Material | None, Material | None]:
    """The certificate, and its key where it stands apart."""
    _only_pem(values, "ssl.keystore", KEYS_TO_PEM, say)
    pairs = (
        (("ssl.keystore.certificate.chain", "pem"), ("ssl.keystore.key", "pem")),
        (("ssl.certificate.location", "path"), ("ssl.key.location", "path")),
        (("ssl.certificate.pem", "pem"), ("ssl.key.pem", "pem")),
    )
    store = values.get("ssl.keystore.location")
    if store:
        return Material("ssl.keystore.location", store), None
    for (certificate, kind), (key, key_kind) in pairs:
        if values.get(certificate) and values.get(key):
            return Material(certificate, **{kind: values[certificate]}), Material(key, **{key_kind: values[key]})
        if values.get(certificate) or values.get(key):
            lacking, given = (key, certificate) if values.get(certificate) else (certificate, key)
            say(given, f"{lacking} is missing beside it", "a client certificate needs its private key, and the reverse")
    return None, None


def _only_pem(values: Mapping[str, str], store: str, hint: str, say: Say) -> None:
    kind = values.get(f"{store}.type", "").upper()
    if kind not in ("", "PEM"):
        path = values.get(f"{store}.location", "FILE")
        say(f"{store}.type", f"{kind} is Java's own format: Python reads PEM only", hint.format(path))
