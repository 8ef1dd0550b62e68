"""What a job pays for Kafka without a daemon: CPU of the whole process and of the log() call, beside kafka-python's own send.

    python benchmarks/direct.py HOST:PORT [--rate 200] [--seconds 8]

Each way runs in a process of its own: `none` only computes and logs into a spool nobody reads, `direct` ships it, `send` calls
kafka-python's producer once a step with the same values as JSON. CPU time, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

WAYS = ("none", "direct", "send")
VALUES = {"loss": 0.5, "accuracy": 0.5, "grad_norm": 1.0, "tokens": 1e3, "lr": 1e-3}


def job(way: str, bootstrap: str, prefix: str, rate: float, seconds: float) -> None:
    """One process: logs at `rate` for `seconds` and prints its own figures."""
    if way == "send":
        import kafka

        producer = kafka.KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5)
        topic = f"{prefix}.default.notices"

        def log(step: int) -> None:
            producer.send(topic, json.dumps({"step": step, "time": time.time(), **VALUES}).encode(), b"run")

        def finish() -> None:
            producer.flush(10)
    else:
        import smarttuner

        bus = f"kafka://{bootstrap}" if way == "direct" else None
        run = smarttuner.attach("bench", bus=bus)

        def log(step: int) -> None:
            run.log(VALUES, step=step)

        finish = run.finish

    for step in range(int(2 * rate)):  # connections are made, code is warm
        log(step)
        time.sleep(1 / rate)
    began, cpu, in_calls = time.monotonic(), time.process_time(), 0.0
    steps = int(rate * seconds)
    for step in range(steps):
        before = time.thread_time()
        log(int(2 * rate) + step)
        in_calls += time.thread_time() - before
        time.sleep(max(0.0, began + step / rate - time.monotonic()))
    spent = time.process_time() - cpu
    finish()
    print(json.dumps({"way": way, "cpu_percent": 100 * spent / (time.monotonic() - began), "log_us": 1e6 * in_calls / steps}))


def main() -> None:
    """Every way, one after the other, then the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bootstrap")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--prefix", default=f"bench{os.getpid()}")
    parser.add_argument("--way", choices=WAYS)
    given = parser.parse_args()
    if given.way:
        job(given.way, given.bootstrap, given.prefix, given.rate, given.seconds)
        return
    from smarttuner.bus.kafka import KafkaLog, KafkaSettings
    from smarttuner.core.clock import SystemClock

    KafkaLog(KafkaSettings(given.bootstrap, prefix=given.prefix, partitions=2), SystemClock()).close()  # makes the topics
    found = {}
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            own = {"XDG_STATE_HOME": folder, "SMART_TUNER_DATA_DIR": folder, "SMART_TUNER__BUS__KAFKA__PREFIX": given.prefix}
            command = [sys.executable, __file__, given.bootstrap, "--way", way, "--prefix", given.prefix]
            command += ["--rate", str(given.rate), "--seconds", str(given.seconds)]
            done = subprocess.run(command, env=os.environ | own, stdout=subprocess.PIPE, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(found[way]))
    ratio = found["direct"]["cpu_percent"] / found["send"]["cpu_percent"]
    print(f"direct costs {ratio:.2f} of kafka-python's send at {given.rate:g} steps a second, {len(VALUES)} values each")


if __name__ == "__main__":
    main()
