"""A training loop without Smart Tuner's SDK that streams its metrics by itself, through librdkafka (confluent-kafka).

    python emitter.py HOST:PORT smart-tuner.default RUN [STEPS]

Each message is one MetricChunk (docs/schema.json), keyed by the run's name. librdkafka's own default spreads keys by CRC-32:
`partitioner=murmur2_random` puts them where every Java client and the daemon look. The same holds for every binding of
librdkafka (C, C++, Go, Rust, .NET, …).
"""

import json
import math
import secrets
import sys
import time

from confluent_kafka import Producer

POINTS_A_CHUNK = 50
DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid():
    """Names one start of the job. Attempts of a run sort by their time, so that the newest is the last."""
    number = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    return "".join(DIGITS[number >> shift & 31] for shift in range(125, -1, -5))


def number(value):
    """JSON has no NaN and no infinity: they travel as words."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


class Emitter:
    """One attempt of a run that logs one series, val_loss."""

    def __init__(self, bootstrap, topics, run):
        settings = {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "acks": "all", "enable.idempotence": True}
        self.producer = Producer({**settings, "linger.ms": 20, "client.id": "emitter"})
        self.topics, self.run, self.attempt = topics, run, ulid()
        self.position = 0  # of the next point in its source: rises by one a point and never repeats within an attempt
        self.points = []

    def log(self, step, value):
        """Chunks of some tenths of a second to a second keep both ends quick."""
        self.points.append((step, number(value), time.time()))
        if len(self.points) == POINTS_A_CHUNK:
            self.flush()

    def flush(self):
        """Sends what waits as one chunk."""
        if self.points:
            steps, values, times = zip(*self.points, strict=True)
            series = {"name": "val_loss", "steps": steps, "values": values, "times": times}
            self.send("metrics", kind="metrics", source="librdkafka", seq=self.position, series=[series])
            self.position += len(self.points)
            self.points = []

    def finish(self):
        """The last word, after everything else has arrived: another topic keeps no order with the metrics."""
        self.flush()
        self.producer.flush(30)
        self.send("runs", kind="run", event="ended", state="finished", seq=self.position, time=time.time())
        if self.producer.flush(30):
            sys.exit("something did not arrive")

    def send(self, topic, **fields):
        """One message; what did not arrive is said."""
        body = json.dumps({"v": 1, "run": self.run, "attempt": self.attempt, **fields})
        self.producer.produce(f"{self.topics}.{topic}", body, key=self.run, on_delivery=self.told)
        self.producer.poll(0)

    @staticmethod
    def told(error, _):
        """Called for each message once its fate is known."""
        if error is not None:
            print(f"not sent: {error}", file=sys.stderr)


if __name__ == "__main__":
    emitter = Emitter(*sys.argv[1:4])
    for step in range(int(sys.argv[4]) if len(sys.argv) > 4 else 200):
        loss = math.nan if step == 3 else max(0.2, 1.0 / (1 + step))  # here a model would learn
        emitter.log(step, loss)
    emitter.finish()
    print(emitter.attempt)
