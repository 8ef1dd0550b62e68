"""Real daemons and real jobs, each a process of its own, in a workplace that no other test shares."""

import pytest
from workplace import Workplace, until


@pytest.fixture
def make_place(tmp_path):
    """Makes workplaces under names of their own."""
    made = []

    def make(name="place"):
        made.append(Workplace(tmp_path / name))
        return made[-1]

    yield make
    for one in made:
        one.shut()


@pytest.fixture
def place(make_place):
    return make_place()


class Served:
    """A place with a daemon and a job that is well and streams all the time."""

    def __init__(self, folder):
        self.place = Workplace(folder)
        self.daemon = self.place.daemon().ready()
        self.healthy = self.place.job("healthy", pause_s=0.005).reaches(20)

    def flows(self):
        """Waits until the daemon has taken what the healthy job logs from now on."""
        wanted = self.healthy.logged + 5

        def there():
            assert self.daemon.alive, self.place.said()
            runs = {one["run"]: one for one in self.daemon.ask("runs")["runs"]}
            return runs.get("healthy", {"series": {}})["series"].get("x", {"points": 0})["points"] >= wanted

        until(there, told=self.place.said)

    def counts(self, *names):
        """The counters of these names, summed up."""
        counters = self.daemon.ask()["counters"]
        return sum(counters.get(name, 0) for name in names)

    def spool_of(self, job):
        """The path of a job's spool."""

        def found():
            return [row for row in self.daemon.ask("runs")["runs"] if row["run"] == job.name]

        return self.place.spools / f"{until(found, told=job.said)[0]['attempt']}.spool"

    def end(self):
        self.healthy.tell_to_end()
        assert self.healthy.ended() == 0
        until(lambda: self.daemon.ask()["jobs"] == 0, told=lambda: self.daemon.ask())
        assert self.daemon.stop() == 0
        self.place.whole("healthy", self.healthy.logged)


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """For all tests of a file: at the end not one point of the healthy job may be missing."""
    one = Served(tmp_path_factory.mktemp("served") / "place")
    try:
        yield one
        one.end()
    finally:
        one.place.shut()


@pytest.fixture
def served(serving):
    serving.flows()
    faults = serving.counts("faults")
    yield serving
    serving.flows()
    assert serving.counts("faults") == faults, serving.place.said()


@pytest.fixture(scope="session")
def workplace():
    return Workplace


@pytest.fixture(name="until", scope="session")
def until_():
    return until
