"""The compiled parts. Everything else is in pyproject.toml.

They are optional: without a compiler, or on an interpreter without a GIL (which has no stable ABI, and for which they are not
made), Python does the same (docs/adr/0008-what-a-step-does-is-compiled.md)."""

from sysconfig import get_config_var

from setuptools import Extension, setup

WITHOUT_GIL = bool(get_config_var("Py_GIL_DISABLED"))
CALM = ["trainer/_calm.c", "trainer/calm_log.c", "trainer/calm_steps.c"]
COMPILED = {"smarttuner.bus._ring": ["bus/_ring.c"], "smarttuner.trainer._calm": CALM}
HEADERS = ["bus/ring.h", "trainer/calm.h"]

setup(
    ext_modules=[]
    if WITHOUT_GIL
    else [
        Extension(name, files, depends=HEADERS, py_limited_api=True, optional=True, extra_compile_args=["-fvisibility=hidden"])
        for name, files in COMPILED.items()
    ],
    options={} if WITHOUT_GIL else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
