"""The transports that the suite in test_bus.py runs over. A further one is a class here; the suite stays as it is."""

import contextlib
import os
import subprocess
import time

import pytest
from smarttuner.bus.kafka import KafkaLog, KafkaSettings
from smarttuner.bus.local import LocalLog
from smarttuner.bus.memory import MemoryLog
from smarttuner.bus.retention import DAY_S, Limits, Retention
from smarttuner.core.clock import SystemClock


class ShiftedClock:
    """The machine's clock, which a test can put forward."""

    ahead_s = 0.0

    def now(self):
        return time.time() + self.ahead_s

    def monotonic(self):
        return time.monotonic()

    def sleep(self, seconds):
        time.sleep(seconds)


def limits(max_bytes=1 << 30, hard_bytes=1 << 40, max_age_s=DAY_S, reserve_bytes=1 << 20):
    """The same limits for both files."""
    both = Limits(max_bytes, max_age_s, hard_bytes)
    return Retention(both, both, reserve_bytes)


class InProcess:
    """What memory and local have in common: the log object gives the drills."""

    total_order = True  # append times rise strictly over all topics and partitions
    marks_last = True  # a mark is there after a restart
    seeds = 6  # of the test that rebalances by chance
    drills = True  # rebalance, skip_offsets and retention can be called for
    wait_s = 20.0  # how long a read may take before it counts as missing
    idle_s = 0.3  # nothing came for so long: nothing more will come
    commits_refused = 0  # so far

    def __init__(self, partitions, folder):
        self.partitions = partitions
        self.folder = str(folder)
        self.clock = ShiftedClock()
        self.log = self.make(limits())
        self.handles = []

    def connect(self):
        self.handles.append(self.log.connect())
        return self.handles[-1]

    def mark(self, name):
        return self.log.mark(name)

    def rebalance(self, group):
        self.log.rebalance(group)

    def skip_offsets(self, topic, partition, count):
        self.log.skip_offsets((topic, partition), count)

    def age(self, seconds):
        self.clock.ahead_s += seconds

    def expire(self):
        self.log.maintain()

    def lag(self, group):
        return self.log.lag(group)

    def limit(self, **changes):
        """Begins anew under other limits."""
        self.close()
        self.log = self.make(limits(**changes))

    def close(self):
        for handle in self.handles:
            handle.close()
        self.handles = []
        self.log.close()


class InMemory(InProcess):
    durable = False

    def make(self, limits):
        return MemoryLog(self.clock, self.partitions, limits)


class Local(InProcess):
    durable = True

    def make(self, limits):
        return LocalLog(self.folder, self.clock, self.partitions, limits, housekeeping=False)

    def restart(self):
        """As after a kill or a stop of the process that has the log."""
        self.close()
        self.log = self.make(limits())

    def let_go(self):
        """Lets another process have the log; `restart` takes it back."""
        self.close()

    def publisher(self):
        """Python that makes `bus` in a process of its own."""
        return (
            "from smarttuner.bus.local import LocalLog\nfrom smarttuner.core.clock import SystemClock\n"
            f"bus = LocalLog({self.folder!r}, SystemClock(), {self.partitions}).connect()\n"
        )

    @contextlib.contextmanager
    def small_disk(self, size_mib):
        """The log on a disk of its own that is as small as that."""
        self.close()
        folder, self.folder = self.folder, os.path.join(self.folder, "small")
        os.makedirs(self.folder)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", self.folder], capture_output=True)
        if mounted.returncode:
            pytest.skip(f"mount is not permitted here: {mounted.stderr.decode().strip()}")
        try:
            self.log = self.make(limits())
            yield self.folder
        finally:
            self.close()
            subprocess.run(["umount", self.folder], check=True)
            self.folder = folder
            self.log = self.make(limits())


class Kafka:
    """Apache Kafka; the broker lives on, so a restart is one of the client's process only."""

    total_order = False
    drills = False
    durable = True
    marks_last = False
    seeds = 2  # members need a second to come and go
    wait_s = 30.0
    idle_s = 1.0

    def __init__(self, partitions, bootstrap, prefix):
        self.partitions = partitions
        self.settings = KafkaSettings(
            bootstrap, prefix, partitions=partitions, session_timeout_s=6.0, heartbeat_s=0.2, fetch_wait_s=0.2
        )
        self.handles = []
        self.log = KafkaLog(self.settings, SystemClock())

    def connect(self):
        self.handles.append(self.log.connect())
        return self.handles[-1]

    def mark(self, name):
        return self.log.mark(name)

    def lag(self, group):
        return self.log.lag(group)

    @property
    def commits_refused(self):
        return self.log.counters["commits_refused"]

    def restart(self):
        self.close()
        self.log = KafkaLog(self.settings, SystemClock())

    def let_go(self):
        """Others may publish at any time."""

    def publisher(self):
        """Python that makes `bus` in a process of its own."""
        return (
            "from smarttuner.bus.kafka import KafkaLog, KafkaSettings\nfrom smarttuner.core.clock import SystemClock\n"
            f"bus = KafkaLog({self.settings!r}, SystemClock()).connect()\n"
        )

    def close(self):
        for handle in self.handles:
            handle.close()
        self.handles = []
        self.log.close()


TRANSPORTS = {"memory": InMemory, "local": Local, "kafka": Kafka}


@pytest.fixture(params=[(name, n) for name in TRANSPORTS for n in (1, 4)], ids=lambda param: f"{param[0]}-{param[1]}")
def transport(request, tmp_path):
    name, partitions = request.param
    if name == "kafka":
        broker, prefix = request.getfixturevalue("kafka_broker"), request.getfixturevalue("kafka_prefix")
        made = Kafka(partitions, broker.bootstrap, prefix)
    else:
        made = TRANSPORTS[name](partitions, tmp_path)
    yield made
    made.close()
