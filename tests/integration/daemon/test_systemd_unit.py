"""The unit file, as systemd itself reads it."""

import pathlib
import shutil
import subprocess
import sys

import pytest
import smarttuner

UNIT = pathlib.Path(smarttuner.__file__).parent / "systemd/smart-tuner.service"


@pytest.fixture
def analyze():
    tool = shutil.which("systemd-analyze")
    if not tool:
        pytest.skip("systemd-analyze is not installed")

    def run(*arguments):
        return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def unit(tmp_path):
    """A copy whose command is there on this machine."""
    copy = tmp_path / "smart-tuner.service"
    command = pathlib.Path(sys.executable).parent / "smart-tuner"
    copy.write_text(UNIT.read_text().replace("/opt/smart-tuner/bin/smart-tuner", str(command)))
    assert str(command) in copy.read_text()
    return copy


def test_verify_has_nothing_to_say(analyze, unit):
    result = analyze("verify", "--recursive-errors=no", unit)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_verify_would_have_something_to_say(analyze, unit):
    unit.write_text(unit.read_text().replace("WatchdogSec=60", "WatchdogSex=60"))
    assert "WatchdogSex" in analyze("verify", "--recursive-errors=no", unit).stderr


def test_the_sandbox_leaves_little_open(analyze, unit):
    result = analyze("security", "--offline=true", "--threshold=18", unit)
    assert result.returncode == 0, result.stdout.splitlines()[-1]


def test_the_unit_is_notified_watched_and_drained():
    lines = UNIT.read_text().splitlines()
    for wanted in (
        "Type=notify",
        "WatchdogSec=60",
        "StateDirectory=smart-tuner",
        "RuntimeDirectory=smart-tuner",
        "Restart=on-failure",
        "LimitNOFILE=65536",
        "FileDescriptorStoreMax=4096",
    ):
        assert wanted in lines
