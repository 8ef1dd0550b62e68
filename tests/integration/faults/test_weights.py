"""A daemon that is stopped, killed or replaced in the middle of real trainings: they end with the weights of an unwatched one."""

import os
import signal

import pytest
from trainings import NEEDS, same, training_of
from workplace import until

pytestmark = pytest.mark.filterwarnings("ignore")  # what the frameworks warn each other of is not ours
AT, LATER = 3, 6


class Struck:
    """What is done to the daemon of a place at step AT, and undone at step LATER."""

    def __init__(self, place, how):
        self.place, self.how = place, how
        self.daemon, self.served = place.daemon().ready(), []

    def __call__(self, step, run, parts):
        self.served.append(run._line.bell.connected)
        if step == AT:
            {"stopped": lambda: self.daemon.send(signal.SIGSTOP), "killed": self.daemon.kill, "replaced": self.daemon.stop}[
                self.how
            ]()
        elif step == LATER and self.how == "stopped":
            self.daemon.send(signal.SIGCONT)
        elif step == LATER:
            self.daemon = self.place.daemon().ready()
        if step in (AT, LATER):
            run._line.bell._next_check = run._calm.looked = 0.0  # the job looks once a second, and does not live that long here

    def end(self):
        """All that the run told has arrived."""
        until(lambda: self.daemon.ask()["jobs"] == 0, told=self.place.said)
        assert self.daemon.stop() == 0
        assert {state for state, _ in self.place.states().values()} == {"finished"}, self.place.states()


@pytest.mark.parametrize("how", ["stopped", "killed", "replaced"])
@pytest.mark.parametrize("name", NEEDS)
def test_weights_are_bit_identical_whatever_becomes_of_the_daemon(name, how, place, monkeypatch):
    training = training_of(name)
    for variable in [one for one in os.environ if one.startswith("SMART_TUNER")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("SMART_TUNER_DATA_DIR", str(place.data))
    monkeypatch.setenv("XDG_STATE_HOME", str(place.state))
    struck = Struck(place, how)
    weights = training("act", struck)
    assert same(name, weights)
    assert struck.served[AT]
    assert struck.served[-1]
    assert (how == "stopped") == struck.served[LATER]
    struck.end()
