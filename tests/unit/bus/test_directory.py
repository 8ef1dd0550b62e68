import os
import subprocess
import sys

import pytest
from smarttuner.bus import filesystem
from smarttuner.bus.directory import DirectoryLock, InUse, require_local
from smarttuner.bus.local import LocalLog
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import ConfigError, Unavailable


def test_a_second_log_on_one_directory_is_refused_with_the_pid_of_the_first(tmp_path):
    first = LocalLog(str(tmp_path), ManualClock())
    with pytest.raises(InUse, match=f"process {os.getpid()}") as refused:
        LocalLog(str(tmp_path), ManualClock())
    assert "--data-dir" in refused.value.hint
    first.close()
    LocalLog(str(tmp_path), ManualClock()).close()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "from smarttuner.bus.directory import DirectoryLock\nimport sys, time\n"
        f"lock = DirectoryLock({str(tmp_path)!r}, 'bus.lock', 'the bus')\nprint('held', flush=True)\ntime.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(InUse, match=f"process {child.pid}"):
        DirectoryLock(str(tmp_path), "bus.lock", "the bus")
    child.kill()
    child.wait()
    child.stdout.close()
    DirectoryLock(str(tmp_path), "bus.lock", "the bus").release()


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        DirectoryLock(str(tmp_path / "file" / "folder"), "bus.lock", "the bus")


def test_a_log_on_nfs_is_refused_with_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "kind", lambda path: 0x6969)
    with pytest.raises(ConfigError, match="NFS") as refused:
        LocalLog(str(tmp_path / "not yet there"), ManualClock())
    assert "--data-dir" in refused.value.hint
    assert os.listdir(tmp_path) == []


def test_require_local_takes_another_judge_of_file_systems(tmp_path):
    require_local(str(tmp_path), "x", lambda path: None)
    with pytest.raises(ConfigError, match="FUSE"):
        require_local(str(tmp_path), "x", lambda path: "FUSE")
