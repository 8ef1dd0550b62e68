"""A job that closes all descriptors, as a daemon does when it begins, gives their numbers to files of its own: they stay whole."""

import subprocess
import sys

import pytest

ATTACHED = """
import gc, os, socket, threading, smarttuner
from smarttuner.bus.spool_layout import WORD_ARMED
from smarttuner.core.events import Ack
data = os.path.join(os.environ["XDG_STATE_HOME"], "data")
os.mkdir(data)
daemon = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
daemon.bind(os.path.join(data, "bus.sock"))
daemon.listen()
def welcome():
    global line
    line, _ = daemon.accept()
    line.send(b'{"v":1,"pid":1}')
thread = threading.Thread(target=welcome)
thread.start()
run = smarttuner.attach("r", data_dir=data)
thread.join()
assert run._line.bell.connected
run.log({"a": 1.0})

def files_and_sockets():
    os.closerange(3, 256)
    files = [open(os.path.join(data, str(i)), "w+") for i in range(10)]
    for one in files:
        one.write("x" * 10_000)
        one.flush()
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(10)]
    for pair in pairs:
        for one in pair:
            one.setblocking(False)
            one.send(b"the job's")
    return files, pairs

def assert_untouched(files, pairs):
    for one in files:
        assert os.fstat(one.fileno()).st_size == 10_000
        one.seek(0)
        assert one.read() == "x" * 10_000
    for pair in pairs:
        for one in pair:
            assert one.recv(100) == b"the job's"
            try:
                raise AssertionError(one.recv(100))
            except BlockingIOError:
                pass
"""

ITSELF = """
line = run._line
given = files_and_sockets()
line.bell._next_check = run._calm.looked = 0.0
for step in range(5):
    line.spool.words[WORD_ARMED] = 1
    run.log({"a": 1.0}, step=step)
try:
    line.journal.answer(Ack("1", "r", "a", "applied", 0.0))
except smarttuner.core.errors.Unavailable:
    pass
run.finish()
del run, line
gc.collect()
assert_untouched(*given)
"""

CHILD = """
child = os.fork()
if child == 0:
    given = files_and_sockets()
    run.log({"a": 1.0})
    run.finish()
    del run
    gc.collect()
    assert_untouched(*given)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
run.log({"a": 2.0})
run.finish()
"""


@pytest.mark.parametrize("script", [ITSELF, CHILD], ids=["itself", "the child of a fork"])
def test_what_has_our_numbers_by_then_is_the_jobs(script, state):
    done = subprocess.run([sys.executable, "-c", ATTACHED + script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
