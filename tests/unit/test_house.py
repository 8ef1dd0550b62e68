"""The house rules that no other tool holds."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROOMS = ("core", "bus", "daemon", "collectors", "consumers", "trainer")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILE_LINES = 420
FUNCTION_LINES = 60
BY_ARGUMENTS = ("register", "attach", "serve")
"""As long as the options that they name."""
DOORS = ("trainer/attach.py", "consumers/frames.py")
"""Where a person's code comes in: it finds the data directory like the command line does."""


def name(path):
    return str(path.relative_to(ROOT))


def test_every_package_is_listed():
    found = {"smarttuner"} | {
        "smarttuner." + str(path.parent.relative_to(ROOT)).replace("/", ".") for path in SOURCES if path.name == "__init__.py"
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found
    assert all((path.parent / "__init__.py").exists() for path in SOURCES)


def test_every_data_file_is_listed():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["smarttuner"]
    shipped = {path for pattern in patterns for path in ROOT.glob(pattern)}
    assert {ROOT / "py.typed", *(ROOT / "configs").iterdir(), *(ROOT / "systemd").iterdir()} <= shipped


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_keep_their_budget(path):
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name not in BY_ARGUMENTS:
            assert node.end_lineno - node.lineno < FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", sorted(path for room in ROOMS for path in (ROOT / room).glob("*.[ch]")), ids=name)
def test_what_is_compiled_keeps_its_budget_and_is_built_anew_where_it_changes(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= FILE_LINES
    assert max(map(len, lines)) <= PROJECT["tool"]["ruff"]["line-length"]
    assert name(path) in (ROOT / "setup.py").read_text()


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_the_clock_and_the_environment_are_read_at_the_door_only(path):
    at_the_door = "daemon/cli/" in name(path) or name(path) in DOORS
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            continue
        read = f"{node.value.id}.{node.attr}"
        if read in ("time.time", "time.monotonic", "time.perf_counter", "datetime.now", "datetime.utcnow"):
            assert "daemon/cli/" in name(path) or name(path) == "core/clock.py", f"{read}: use core/clock.py"
        if read in ("os.getenv", "os.environ"):
            assert at_the_door, f"{read}: hand the environment in"


def loaded_by(statement):
    script = f"{statement}\nimport sys; print(' '.join(sorted(m.split('.')[0] for m in sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


HEAVY = {"torch", "numpy", "pandas", "pyarrow", "pydantic", "yaml", "kafka", "apprise"}


def test_importing_the_package_loads_nothing_heavy():
    assert not loaded_by("import smarttuner") & (HEAVY | {"msgspec", "typer", "rich"})


def test_attaching_loads_nothing_heavy_into_the_job():
    assert not loaded_by("import smarttuner; smarttuner.attach") & (HEAVY | {"typer", "rich"})


def test_help_loads_nothing_heavy():
    statement = "from smarttuner.daemon.cli.main import run; run(['--help']); run(['daemon', '--help'])"
    assert not loaded_by(statement) & (HEAVY - {"pydantic"})  # typer reads the options of a command through it


def commands():
    import typer
    from smarttuner.daemon.cli.main import app

    def walk(command, path):
        for child_name, child in sorted(getattr(command, "commands", {}).items()):
            yield (*path, child_name), child
            yield from walk(child, (*path, child_name))

    return list(walk(typer.main.get_command(app), ()))


def test_every_command_and_option_is_documented():
    page = (ROOT / "docs" / "commands.md").read_text()
    for path, command in commands():
        assert f"smart-tuner {' '.join(path)}" in page, path
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option != "--help":
                    assert option in page, (path, option)
            if parameter.opts[0].startswith("-"):
                assert parameter.help, (path, parameter.name)


def test_every_command_shows_an_example():
    for path, command in commands():
        if not getattr(command, "commands", None):
            assert "Example: smart-tuner" in (command.epilog or ""), path


def test_the_readme_promises_the_two_commands_first():
    fences = re.findall(r"```(?:sh|bash)?\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert fences[0].split("\n")[:2] == ["make demo", "make test"]


def test_every_link_of_a_page_leads_somewhere():
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), (page.name, target)
