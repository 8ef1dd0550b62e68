"""The product under its distribution name: `import smart_tuner` is `import smarttuner`; as a script, the automated search."""

import sys
from typing import Any

import smarttuner
from smarttuner import __all__ as __all__
from smarttuner import __version__ as __version__


def __getattr__(name: str) -> Any:  # PEP 562, as smarttuner itself: nothing is loaded before it is used
    return getattr(smarttuner, name)


def main() -> int:
    """The search over the Tacotron 2 trainer is not in this release: says so instead of doing something else."""
    print(
        "smart-tuner: the automated search (--dataset, --max-trials, --auto-deploy-best) is not part of this release yet\n"
        "    hint: check the file with `smart-tuner config validate FILE`; see the closed loop with `smart-tuner demo`",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
