"""Format, lint, types, import contract and all tests, each with its time; the first failure stops. `make test` runs this."""

import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(sys.executable).parent


def mypy_root() -> pathlib.Path:
    """A folder that holds a link smarttuner -> repository, which is what mypy needs for a root package."""
    folder = ROOT / ".types"
    folder.mkdir(exist_ok=True)
    link = folder / "smarttuner"
    if not link.is_symlink():
        link.symlink_to(ROOT)
    return folder


PLAIN = [
    f"tests/unit/trainer/test_{room}.py" for room in ("lr", "lr_kinds", "attach", "control", "late", "line", "no_harm", "values")
]
"""Where what is compiled stands in for Python: once more with Python alone."""
STEPS = [
    ("format", ["ruff", "format", "--check", "."]),
    ("lint", ["ruff", "check", "."]),
    ("types", ["mypy", "-p", "smarttuner"]),
    ("imports", ["lint-imports", "--no-cache"]),
    ("tests", ["python", "-m", "pytest", "-n", "2", "--dist", "worksteal"]),
    (
        "tests, nothing compiled",
        ["env", "SMART_TUNER_TEST_PLAIN=1", "python", "-m", "pytest", "-n", "2", *PLAIN, "tests/unit/bus/test_spool.py"],
    ),
]


def main() -> int:
    """Runs the steps in order; the exit code of the first that fails."""
    environment = os.environ | {"MYPYPATH": str(mypy_root()), "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    for name, command in STEPS:
        started = time.monotonic()
        print(f"==> {name}: {' '.join(command)}", flush=True)
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        print(f"==> {name}: {'ok' if code == 0 else f'FAILED ({code})'} in {time.monotonic() - started:.1f} s", flush=True)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
