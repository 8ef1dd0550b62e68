import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from kafka_certificates import PASSWORD, make_certificates
from smarttuner.bus.kafka_oauth import Tokens, TokenSource, unsecured
from smarttuner.bus.kafka_options import client_options, read_options
from smarttuner.bus.kafka_tls import Tls
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import ConfigError, Unavailable


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def context(**keys):
    client = {"security.protocol": "SSL"} | {name.replace("_", "."): str(value) for name, value in keys.items()}
    return client_options("b:9093", client)["ssl_context"]


def handshake(client, certificates, server="broker", want_client=False, host="127.0.0.1"):
    """What the two ends say to each other, in memory; the broker's view of the client's certificate."""
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other.load_cert_chain(certificates / f"{server}.pem")
    if want_client:
        other.verify_mode = ssl.CERT_REQUIRED
        other.load_verify_locations(certificates / "authority.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=host)
    two = other.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for end in (one, two):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return two.getpeercert() if want_client else one.version()


def test_a_pem_truststore_is_trusted_as_file_and_as_text(certificates):
    path = certificates / "authority.pem"
    assert handshake(context(ssl_truststore_type="PEM", ssl_truststore_location=path), certificates) == "TLSv1.3"
    assert handshake(context(ssl_truststore_certificates=path.read_text()), certificates) == "TLSv1.3"
    assert handshake(context(ssl_ca_location=path, ssl_enabled_protocols="TLSv1.2"), certificates) == "TLSv1.2"


def test_another_authority_and_another_hosts_certificate_are_refused(certificates):
    with pytest.raises(ssl.SSLCertVerificationError, match=r"self-signed|unable to get"):
        handshake(context(ssl_ca_location=certificates / "stranger.pem"), certificates)
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        handshake(context(ssl_ca_location=certificates / "authority.pem"), certificates, "elsewhere")
    lenient = context(ssl_ca_location=certificates / "authority.pem", ssl_endpoint_identification_algorithm="")
    assert handshake(lenient, certificates, "elsewhere") == "TLSv1.3"
    assert handshake(context(enable_ssl_certificate_verification="false"), certificates, "elsewhere") == "TLSv1.3"


@pytest.mark.parametrize("how", ["keystore", "text", "librdkafka", "locked"])
def test_a_client_certificate_is_shown_whichever_way_it_is_given(certificates, how):
    read = {name: (certificates / f"client.{name}").read_text() for name in ("key", "crt")}
    keys = {
        "keystore": {"ssl_keystore_type": "PEM", "ssl_keystore_location": certificates / "client.pem"},
        "text": {"ssl_keystore_certificate_chain": read["crt"], "ssl_keystore_key": read["key"]},
        "librdkafka": {"ssl_certificate_location": certificates / "client.crt", "ssl_key_location": certificates / "client.key"},
        "locked": {"ssl_keystore_location": certificates / "client-locked.pem", "ssl_key_password": PASSWORD},
    }[how]
    seen = handshake(context(ssl_ca_location=certificates / "authority.pem", **keys), certificates, want_client=True)
    assert seen["subject"] == ((("commonName", "client"),),)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"ssl_truststore_location": "{}/absent.pem"}, "No such file"),
        ({"ssl_truststore_location": "{}/store.jks"}, "a Java keystore"),
        ({"ssl_keystore_location": "{}/store.p12"}, "is no PEM file"),
        ({"ssl_ca_location": "{}/broken.pem"}, "holds no certificate"),
        ({"ssl_keystore_location": "{}/client-locked.pem"}, "is encrypted and no password is given"),
        ({"ssl_keystore_location": "{}/client-locked.pem", "ssl_key_password": "hunter2"}, "password of the private key is wrong"),
        ({"ssl_certificate_location": "{}/client.crt", "ssl_key_location": "{}/broker.key"}, "belongs to another certificate"),
        ({"ssl_keystore_location": "{}/client.crt"}, "no certificate with its private key"),
        ({"ssl_cipher_suites": "TLS_NONSENSE"}, "ssl.cipher.suites"),
        ({"ssl_crl_location": "{}/authority.pem"}, "holds no revocation list"),
    ],
)
def test_files_that_do_not_do_are_told_with_what_to_do(certificates, keys, said):
    (certificates / "store.jks").write_bytes(b"\xfe\xed\xfe\xed\0\0\0\2")
    (certificates / "store.p12").write_bytes(b"\x30\x82\x0a\x00")
    (certificates / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError) as caught:
        context(**{name: value.format(certificates) for name, value in keys.items()})
    assert said in caught.value.message
    assert caught.value.hint
    assert "hunter2" not in str(caught.value)


class TokenEndpoint(HTTPServer):
    """Counts what it is asked."""

    answer: tuple[int, dict] = (200, {"access_token": "t", "expires_in": 100})

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = []
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append((self.headers["Authorization"], form))
        code, body = self.server.answer
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def endpoint():
    server = TokenEndpoint()
    yield server
    server.shutdown()
    server.thread.join()
    server.server_close()


def test_a_token_is_fetched_with_the_clients_credentials_and_again_before_it_ends(endpoint):
    clock = ManualClock()
    url = f"http://127.0.0.1:{endpoint.server_port}/token"
    tokens = Tokens(TokenSource(endpoint=url, client="id", secret="s", scope="kafka"), Tls(), clock)
    assert [tokens.token(), tokens.token()] == ["t", "t"]
    assert endpoint.asked == [("Basic aWQ6cw==", "grant_type=client_credentials&scope=kafka")]
    clock.turn(81)
    tokens.token()
    assert len(endpoint.asked) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [((401, {}), "answers 401"), ((200, {"error": "x"}), "without an access_token"), ((200, []), "without an access_token")],
)
def test_an_endpoint_that_gives_no_token_is_unavailable_and_the_secret_is_not_told(endpoint, answer, said):
    endpoint.answer = answer
    url = f"http://127.0.0.1:{endpoint.server_port}/token"
    with pytest.raises(Unavailable, match=said) as caught:
        Tokens(TokenSource(endpoint=url, client="id", secret="hunter2"), Tls()).token()
    assert "hunter2" not in str(caught.value)
    with pytest.raises(Unavailable, match="gives no token"):
        Tokens(TokenSource(endpoint="http://127.0.0.1:1/token", client="id", secret="hunter2"), Tls()).token()


def test_a_token_of_a_file_is_read_each_time(tmp_path):
    file = tmp_path / "token"
    client = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER", "sasl.oauthbearer.token.file": str(file)}
    provider = client_options("b:9092", client)["sasl_oauth_token_provider"]
    with pytest.raises(ConfigError, match="No such file"):
        provider.token()
    for text in ("one", "two\n"):
        file.write_text(text)
        assert provider.token() == text.strip()
    file.write_text("")
    with pytest.raises(ConfigError, match="is empty"):
        provider.token()
    java = client | {"sasl.oauthbearer.token.endpoint.url": f"file://{file}"}
    del java["sasl.oauthbearer.token.file"]
    assert read_options(java).security.tokens.file == str(file)


def test_an_unsecured_token_names_its_claims():
    jaas = 'o.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="job" extension_team="voice";'
    client = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER", "sasl.jaas.config": jaas}
    tokens = read_options(client).security.tokens
    assert (tokens.claims, tokens.extensions) == ({"sub": "job"}, {"team": "voice"})
    assert unsecured(tokens.claims, 1000.0).count(".") == 2
