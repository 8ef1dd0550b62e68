"""Smart Tuner: training jobs are watched, judged and steered while they run.

`import smarttuner` loads neither torch nor numpy; the parts are loaded when they are first used.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
