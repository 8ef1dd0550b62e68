from pathlib import Path

import pytest
from smarttuner.bus import places
from smarttuner.core.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_system_service(monkeypatch, tmp_path):
    monkeypatch.setattr(places, "SYSTEM_SOCKET", tmp_path / "run" / "bus.sock")


def test_the_argument_wins_over_the_environment_and_that_over_the_persons_own(tmp_path):
    environ = {"HOME": "/home/p", "SMART_TUNER_DATA_DIR": str(tmp_path / "e")}
    assert places.find_place(environ, tmp_path / "a").found_by == "argument"
    assert places.find_place(environ).folder == tmp_path / "e"
    assert places.find_place({"HOME": "/home/p"}).folder == Path("/home/p/.local/state/smart-tuner")
    assert places.find_place({"HOME": "/home/p", "XDG_STATE_HOME": "/s"}).socket == Path("/s/smart-tuner/bus.sock")


def test_a_system_service_that_runs_comes_before_the_persons_own(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "bus.sock").touch()
    place = places.find_place({"HOME": "/home/p"})
    assert (place.found_by, place.socket, place.address) == (
        "system service",
        tmp_path / "run" / "bus.sock",
        "/var/lib/smart-tuner",
    )
    assert places.find_place({"HOME": "/home/p", "SMART_TUNER_DATA_DIR": "/d"}).folder == Path("/d")


def test_spools_lie_with_the_person_wherever_the_data_goes():
    assert places.spool_folder({"HOME": "/home/p", "SMART_TUNER_DATA_DIR": "/d"}) == Path("/home/p/.local/state/smart-tuner/spool")
    assert places.state_home({"HOME": "/h", "XDG_STATE_HOME": "relative"}) == Path("/h/.local/state/smart-tuner")


@pytest.mark.parametrize("environ", [{}, {"HOME": "here"}, {"XDG_STATE_HOME": "relative"}])
def test_a_user_without_a_home_gets_no_folder_called_tilde(environ, monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it answers where neither HOME nor passwd tells
    with pytest.raises(ConfigError, match="XDG_STATE_HOME"):
        places.state_home(environ)


def test_a_broker_is_the_address_where_one_is_named():
    assert places.find_place({"HOME": "/h", "SMART_TUNER_BUS": "kafka://k:9092"}).address == "kafka://k:9092"
    assert places.find_place({"HOME": "/h", "SMART_TUNER_BUS": "kafka://k:9092"}, bus="local:").address.endswith("smart-tuner")


def test_each_folder_is_listed_once_in_the_order_of_the_search():
    environ = {"HOME": "/h", "SMART_TUNER_DATA_DIR": "/d"}
    assert [str(p.folder) for p in places.list_places(environ, "/d")] == [
        "/d",
        "/var/lib/smart-tuner",
        "/h/.local/state/smart-tuner",
    ]


def test_a_daemon_of_a_user_without_a_home_does_without_the_users_own_spools(monkeypatch, tmp_path):
    monkeypatch.setattr(places.os.path, "expanduser", lambda path: path)
    assert places.spool_folders({}) == ()
    assert "own directory" not in [one.found_by for one in places.list_places({}, tmp_path)]
