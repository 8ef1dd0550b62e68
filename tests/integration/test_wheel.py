"""The built wheel is whole: every package and data file is in it, and it runs without this checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import msgspec
import pytest
import typer
from smarttuner.daemon.cli.main import app

ROOT = pathlib.Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "*.so", "build", "*.egg-info", "__pycache__", "tests", "demo-data", "benchmarks")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel's files, from a copy of the checkout, so that nothing is left behind in it."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(folder / "source")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(site, tmp_path, *arguments):
    environment = os.environ | {
        "PYTHONPATH": str(site),
        "XDG_STATE_HOME": str(tmp_path),
        "SMART_TUNER_DATA_DIR": str(tmp_path / "d"),
    }
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)


def test_it_runs_from_the_wheel_and_not_from_the_checkout(unpacked, tmp_path):
    ran = run(
        unpacked,
        tmp_path,
        "-c",
        "import smarttuner, smart_tuner; print(smarttuner.__file__); assert smart_tuner.attach is smarttuner.attach",
    )
    assert ran.stdout.strip() == str(unpacked / "smarttuner" / "__init__.py"), ran.stderr


def test_every_command_of_the_wheel_has_its_help(unpacked, tmp_path):
    for command in typer.main.get_command(app).commands:
        ran = run(unpacked, tmp_path, "-m", "smarttuner.daemon.cli.main", command, "--help")
        assert ran.returncode == 0, (command, ran.stderr)


def test_the_seeds_configuration_ships_and_is_valid(unpacked, tmp_path):
    seed = unpacked / "smarttuner" / "configs" / "enhanced-smart-tuner.yaml"
    ran = run(unpacked, tmp_path, "-m", "smarttuner.daemon.cli.main", "config", "validate", str(seed))
    assert ran.returncode == 0, ran.stderr
    assert "valid" in ran.stdout


def test_the_unit_and_the_type_marker_ship(unpacked):
    assert (unpacked / "smarttuner" / "systemd" / "smart-tuner.service").is_file()
    assert (unpacked / "smarttuner" / "py.typed").is_file()


def test_a_job_attaches_from_the_wheel_without_a_daemon(unpacked, tmp_path):
    code = "import smarttuner\nwith smarttuner.attach('r') as run:\n    run.log({'x': 1.0})"
    ran = run(unpacked, tmp_path, "-c", code)
    assert ran.returncode == 0
    assert "no daemon listens" in ran.stderr
    assert list((tmp_path / "smart-tuner" / "spool").glob("*.spool"))


def test_what_is_compiled_is_in_the_wheel_and_a_job_attaches_without_it(unpacked, tmp_path):
    job = "import smarttuner, smarttuner.trainer.calm as calm\nwith smarttuner.attach('r') as run:\n    run.log({'x': 1.0})\n"
    job += "print('compiled' if calm.hooks else 'plain', calm.__file__)"
    has_compiler = shutil.which("cc") and pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists()
    if has_compiler and not sysconfig.get_config_var("Py_GIL_DISABLED"):
        compiled = run(unpacked, tmp_path, "-c", job)
        assert compiled.stdout.split() == ["compiled", str(unpacked / "smarttuner" / "trainer" / "calm.py")], compiled.stderr
        for folder in ("bus", "trainer"):
            (built,) = (unpacked / "smarttuner" / folder).glob("_*.so")
            assert built.name.endswith(".abi3.so")
    without = "import sys; sys.modules['smarttuner.bus._ring'] = sys.modules['smarttuner.trainer._calm'] = None\n"
    plain = run(unpacked, tmp_path, "-c", without + job)
    assert plain.stdout.startswith("plain "), plain.stderr
    assert "run r finished" in plain.stderr


def test_without_a_compiler_the_wheel_is_built_all_the_same(tmp_path):
    shutil.copytree(ROOT, tmp_path / "source", ignore=LEFT_OUT)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(tmp_path / "source")]
    built = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"CC": "false"})
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


def test_a_base_install_attaches_and_its_command_says_what_to_install(unpacked, tmp_path):
    """Only msgspec beside the wheel, as `pip install smart-tuner` gives it."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "smarttuner").symlink_to(unpacked / "smarttuner")
    (site / "msgspec").symlink_to(pathlib.Path(msgspec.__file__).parent)
    environment = {"PYTHONPATH": str(site), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-S", "-c"]
    job = "import smarttuner\nwith smarttuner.attach('r') as run:\n    run.log({'x': 1.0})"
    ran = subprocess.run([*command, job], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "run r finished" in ran.stderr
    asked = "from smarttuner.daemon.cli.entry import main; main()"
    ran = subprocess.run([*command, asked], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 1
    assert 'hint: pip install "smart-tuner[daemon]"' in ran.stderr
