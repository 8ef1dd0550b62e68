"""The metrics store's lane of one daemon of a fleet, as a process: store_lane.py BOOTSTRAP PREFIX FOLDER. Ends on SIGTERM."""

import signal
import sys
import threading

from smarttuner.bus.kafka import KafkaLog
from smarttuner.bus.kafka_settings import KafkaSettings
from smarttuner.consumers.metrics_store import MetricsStore
from smarttuner.consumers.tenure import Directory
from smarttuner.core.clock import SystemClock
from smarttuner.daemon.lane import Lane
from smarttuner.daemon.stores import FilesStore

PARTITIONS = 4


def settings(bootstrap, prefix):
    return KafkaSettings(
        bootstrap, prefix=prefix, partitions=PARTITIONS, replication_factor=1, session_timeout_s=6.0, heartbeat_s=0.5
    )


def say_first(store, stopping):
    """A line as soon as a partition is this daemon's."""
    while not store.counters["partitions_taken"] and not stopping.wait(0.05):
        pass
    print("has its share", flush=True)


def main(bootstrap, prefix, folder):
    clock, stopping = SystemClock(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    log = KafkaLog(settings(bootstrap, prefix), clock)
    store = MetricsStore("nowhere", clock, seal_rows=3000, publish_s=0.2, place=Directory(folder, clock, shared=True))
    lane = Lane(store, log.connect, FilesStore(store), clock, pause_s=0.05)
    print("ready", flush=True)
    waiting = threading.Thread(target=say_first, args=(store, stopping))
    waiting.start()
    lane.run(stopping)
    waiting.join()
    log.close()
    print(store.counters["fenced"], store.counters["partitions_taken"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
