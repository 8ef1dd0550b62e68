"""What several ranks cost a step that decides nothing, beside a job of one rank, and what looking at the store costs.

.venv/bin/python benchmarks/agreement.py [steps a round, default 20000] [rounds, default 15]

Both jobs take turns in one process, so that a machine that drifts drifts for both; CPU time of the training thread, which
other load moves least, the median of the rounds. The second rank looks at a real TCPStore from a thread of its own, as it
does beside a training; its cost is CPU time a second while nothing is decided.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time

import smarttuner
from smarttuner.core.clock import SystemClock
from smarttuner.trainer.agreement import Member
from smarttuner.trainer.ranks import Seat, Table
from smarttuner.trainer.voice import Voice

AIM_US = 10.0


def cost_us(run: smarttuner.Attachment, steps: int) -> float:
    """CPU microseconds of this thread for one step boundary."""
    before = time.thread_time()
    for _ in range(steps):
        run.step()
    return (time.thread_time() - before) / steps * 1e6


def looking_percent(seconds: float = 3.0) -> float:
    """Share of one core that an idle rank's thread takes."""
    from torch.distributed import PrefixStore, TCPStore

    server = TCPStore("127.0.0.1", 0, is_master=True)
    client = PrefixStore("benchmark", TCPStore("127.0.0.1", server.port, is_master=False))
    Table(client).put("here/0", {"peer": {}})
    member = Member(Seat(1, 2), lambda: Table(client), lambda _: "", SystemClock(), Voice(quiet=True), met=lambda hello: None)
    member.begin()
    before = time.process_time()
    time.sleep(seconds)
    taken = time.process_time() - before
    member.close()
    return taken / seconds * 100


def main(steps: int = 20_000, rounds: int = 15) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        alone = smarttuner.attach("alone")
        os.environ |= {"RANK": "0", "WORLD_SIZE": "2"}
        ranked = smarttuner.attach("ranked")
        costs = [(cost_us(alone, steps), cost_us(ranked, steps)) for _ in range(rounds)]
        for run in (alone, ranked):
            run.finish()
    one, two = (statistics.median(column) for column in zip(*costs, strict=True))
    extra = statistics.median(b - a for a, b in costs)
    said = {"one_rank_us": round(one, 2), "two_ranks_us": round(two, 2), "agreement_us": round(extra, 2), "aim_us": AIM_US}
    print(json.dumps(said | {"idle_rank_percent_of_a_core": round(looking_percent(), 2)}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
