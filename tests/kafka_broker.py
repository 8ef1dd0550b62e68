"""Apache Kafka 4.1 in KRaft mode on this machine's Java, for tests, the demonstration and a first look.

The jars come by Maven into a cache folder outside version control, once; so do a formatted storage and a class-data archive,
which halves the start. `python tests/kafka_broker.py` runs a broker until it is interrupted.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

VERSION = "4.1.0"
ARTIFACTS = {"org.apache.kafka:kafka_2.13": VERSION, "org.apache.logging.log4j:log4j-slf4j-impl": "2.24.3"}
CACHE = pathlib.Path(os.environ.get("SMART_TUNER_KAFKA_CACHE") or pathlib.Path.home() / ".cache" / "smart-tuner" / "kafka")
START_S = 60.0
JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
LOGGING = """Configuration:
  status: error
  Appenders:
    Console: {name: out, target: SYSTEM_ERR, PatternLayout: {pattern: "%d{ISO8601} %p %c{1} %m%n"}}
  Loggers:
    Root: {level: WARN, AppenderRef: [{ref: out}]}
"""
SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    "num.network.threads": "1",
    "num.io.threads": "2",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "delete.topic.enable": "true",
}
KILLED_OFTEN = {"broker.session.timeout.ms": "1000", "broker.heartbeat.interval.ms": "200"}
"""A broker that is killed is back in 4 s instead of 14."""


class NoBroker(Exception):
    """Why Apache Kafka cannot run here."""


def cannot(why):
    """Skips the test that needs a broker; with CI=true it fails."""
    import pytest

    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"Apache Kafka is needed and cannot run: {why}", pytrace=False)
    pytest.skip(f"Apache Kafka cannot run here: {why}")


def free_ports(count):
    """Ports that nobody listens on just now; somebody else may take one before the broker does, which is why it tries again."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def _locked(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def java():
    """The path of a Java that can run Kafka; NoBroker without one."""
    found = shutil.which("java")
    if found is None:
        raise NoBroker("there is no java here (apt-get install openjdk-17-jre-headless), and SMART_TUNER_TEST_KAFKA is not set")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    major = re.search(r'version "(\d+)', said)
    if major is None or int(major[1]) < 17:
        raise NoBroker(f"Kafka needs Java 17, {found} is {said.splitlines()[0] if said else 'silent'}")
    return found


@functools.cache
def jars():
    """Kafka's jars in the cache folder, sorted; fetched by Maven the first time."""
    folder = CACHE / f"libs-{VERSION}"
    with _locked(CACHE / "libs.lock"):
        if not folder.is_dir():
            _fetch(folder)
    return sorted(str(path) for path in folder.glob("*.jar"))


def _fetch(folder):
    maven = shutil.which("mvn")
    if maven is None:
        raise NoBroker(f"Kafka's jars are not in {folder}, and there is no mvn here to fetch them (apt-get install maven)")
    making = folder.with_name(f".{folder.name}.{os.getpid()}")
    making.mkdir(parents=True)
    wanted = "".join(
        f"<dependency><groupId>{name.split(':')[0]}</groupId><artifactId>{name.split(':')[1]}</artifactId>"
        f"<version>{version}</version></dependency>"
        for name, version in ARTIFACTS.items()
    )
    project = "<modelVersion>4.0.0</modelVersion><groupId>t</groupId><artifactId>t</artifactId><version>1</version>"
    (making / "pom.xml").write_text(f"<project>{project}<packaging>pom</packaging><dependencies>{wanted}</dependencies></project>")
    command = [maven, "-B", "-q", "-f", str(making / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={making}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(making)
        raise NoBroker(f"Maven could not fetch Kafka's jars: {(done.stdout + done.stderr).strip()[-500:]}")
    os.rename(making, folder)


def _run(arguments, folder, *flags):
    """A JVM with Kafka's jars; the flags come first."""
    logging = folder / "log4j2.yaml"
    logging.write_text(LOGGING)
    classes = os.pathsep.join(jars())
    return [java(), *JVM, *flags, f"-Dlog4j2.configurationFile={logging}", "-cp", classes, *arguments]


def _tool(folder, *arguments):
    done = subprocess.run(_run(["kafka.tools.StorageTool", *arguments], folder), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"kafka.tools.StorageTool {arguments[0]}: {(done.stdout + done.stderr)[-1000:]}")
    return done.stdout


@functools.cache
def prepared():
    """A folder of the cache with a formatted storage (`data`) and a class-data archive (`kafka.jsa`); made once a machine."""
    said = subprocess.run([java(), "-version"], capture_output=True, text=True, check=True).stderr
    key = hashlib.sha256("\n".join([said, *jars(), *JVM]).encode()).hexdigest()[:12]
    folder = CACHE / f"prepared-{VERSION}-{key}"
    with _locked(CACHE / "prepared.lock"):
        if not folder.is_dir():
            making = folder.with_name(f".{folder.name}.{os.getpid()}")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            broker = Broker(making / "broker", fresh=True)
            broker.start(f"-XX:ArchiveClassesAtExit={making / 'kafka.jsa'}")
            broker.stop()
            (making / "data").mkdir()
            for name in ("meta.properties", "bootstrap.checkpoint"):
                shutil.copy(broker.formatted / name, making / "data" / name)
            shutil.rmtree(making / "broker")
            os.rename(making, folder)
    return folder


class Broker:
    """One Apache Kafka of its own, on ports that stay when it is killed and started again.

    listeners: further listeners by name, each with its protocol ({"TLS": "SSL"}); their ports are in `ports`.
    advertised: ports that clients are told instead of a listener's own ({"PROXIED": proxy.port}).
    formatting: further arguments for the storage tool (["--add-scram", "SCRAM-SHA-512=[name=u,password=p]"]).
    Every other keyword is a line of server.properties: Broker(folder, **{"auto.create.topics.enable": "true"}).
    """

    def __init__(self, folder, *, listeners=None, advertised=None, formatting=(), fresh=False, heap_mib=256, **overrides):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.listeners = {"PLAINTEXT": "PLAINTEXT", **(listeners or {})}
        self.advertised, self.formatting, self.overrides = advertised or {}, list(formatting), overrides
        self.fresh, self.heap_mib = fresh or bool(formatting), heap_mib
        self.formatted = self.folder / "formatted"
        self.process = None
        self.take_ports()

    def take_ports(self):
        """Other ports; only before the first start."""
        *ports, self.controller_port = free_ports(len(self.listeners) + 1)
        self.ports = dict(zip(self.listeners, ports, strict=True))
        self.port = self.ports["PLAINTEXT"]

    @property
    def bootstrap(self):
        """host:port of the plaintext listener."""
        return f"127.0.0.1:{self.port}"

    def address(self, listener):
        """host:port of a listener by its name."""
        return f"127.0.0.1:{self.ports[listener]}"

    def settings(self):
        """What stands in server.properties."""
        everywhere = {**self.ports, **self.advertised}
        single = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
        return {
            **SETTINGS,
            **{f"{topic}.replication.factor": "1" for topic in single},
            "node.id": "1",
            "listeners": ",".join(f"{n}://127.0.0.1:{p}" for n, p in {**self.ports, "CONTROLLER": self.controller_port}.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in everywhere.items()),
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocol}" for name, protocol in {**self.listeners, "CONTROLLER": "PLAINTEXT"}.items()
            ),
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "log.dirs": str(self.folder / "data"),
            **self.overrides,
        }

    def start(self, *flags):
        """Runs, and listens when this returns. The data of an earlier start is there."""
        if not flags and not self.fresh:
            flags = (f"-XX:SharedArchiveFile={prepared() / 'kafka.jsa'}",)
        for tries in range(3):
            if self._start(flags):
                return self
            if (self.folder / "data" / "__cluster_metadata-0").exists() or tries == 2:
                break
            self.take_ports()
        raise RuntimeError(f"Kafka did not start: {self.said()}")

    def _start(self, flags):
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self.settings().items()))
        data = self.folder / "data"
        if not (data / "meta.properties").exists():
            self._format(properties, data)
        ends_with_us = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        command = _run(["kafka.Kafka", str(properties)], self.folder, f"-Xmx{self.heap_mib}m", *flags)
        with open(self.folder / "broker.log", "ab") as log:
            self.process = subprocess.Popen(ends_with_us + command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self.wait()

    def _format(self, properties, data):
        if self.fresh:
            _tool(self.folder, "format", "-t", "c21hcnQtdHVuZXItdGVzdA", "-c", str(properties), *self.formatting)
            shutil.copytree(data, self.formatted)
        else:
            shutil.copytree(prepared() / "data", data)

    def wait(self):
        """Until every listener is open; False if the process ended instead."""
        deadline = time.monotonic() + START_S
        for port in self.ports.values():
            while True:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    return False
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.02)
        return True

    def said(self):
        """The end of the broker's log."""
        path = self.folder / "broker.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else "nothing"

    def signal(self, number):
        """SIGSTOP and SIGCONT pause it and let it go on."""
        self.process.send_signal(number)

    def kill(self):
        """As kill -9 does."""
        self._end(signal.SIGKILL)

    def stop(self):
        """As an operator does; idempotent."""
        self._end(signal.SIGTERM)

    def _end(self, number):
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Remote:
    """A broker that somebody else runs: SMART_TUNER_TEST_KAFKA=host:port."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.port = int(bootstrap.rpartition(":")[2])


def shared(folder):
    """The address of one broker for all who hold `folder`/users (shared lock); it ends by itself soon after the last of them.
    The caller keeps the second thing that is returned, an open file, for as long as it wants the broker."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    prepared()
    users = open(folder / "users", "a")  # noqa: SIM115  the caller holds it
    fcntl.flock(users, fcntl.LOCK_SH)
    address = folder / "address"
    with _locked(folder / "start.lock"):
        if not address.exists():
            with open(folder / "keeper.log", "ab") as log:
                command = [sys.executable, os.path.abspath(__file__), "keep", str(folder)]
                keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            deadline = time.monotonic() + 2 * START_S
            while not address.exists():
                if keeper.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Kafka did not start: {(folder / 'keeper.log').read_text()[-2000:]}")
                time.sleep(0.02)
            keeper.returncode = 0  # it outlives us, and is nobody's child then: no ResourceWarning
    return address.read_text(), users


def _keep(folder):
    """A process of its own: runs a broker for as long as anybody holds a shared lock on `folder`/users."""
    broker = Broker(folder / "broker").start()
    making, address = folder / ".address", folder / "address"
    with open(folder / "users", "a") as users:
        try:
            making.write_text(broker.bootstrap)
            os.rename(making, address)
            while broker.process.poll() is None:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.5)
        finally:  # whoever comes now waits for the lock, and finds no address
            broker.kill()
            address.unlink(missing_ok=True)
            shutil.rmtree(folder / "broker", ignore_errors=True)


def _show(folder):
    broker = Broker(folder).start()
    print(f"Apache Kafka {VERSION} listens on {broker.bootstrap}; its data is in {folder}; ^C ends it", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        broker.process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        broker.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["keep"]:
        _keep(pathlib.Path(sys.argv[2]))
    else:
        _show(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "kafka-data"))
