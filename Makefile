# Two commands do everything: `make demo` and `make test`; both call `make setup`, which makes .venv and nothing else.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
export PYTHONDONTWRITEBYTECODE :=
export UV_HTTP_TIMEOUT ?= 180
FIND_LINKS := $(foreach d,$(PIP_FIND_LINKS),$(if $(wildcard $(d)/*.whl),--find-links $(d)))
SUM := $(shell cat pyproject.toml constraints.txt setup.py bus/*.[ch] trainer/*.[ch] | cksum | cut -d' ' -f1)
$(if $(shell test -x $(PY) && echo y),,$(shell rm -rf $(VENV)))

setup: $(VENV)/.dev-$(SUM)

demo: setup
	@$(VENV)/bin/smart-tuner demo $(ARGS)

test: setup
	@$(PY) tests/run_all.py

$(VENV)/.%-$(SUM):
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "==> making $(VENV)"; rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	@command -v uv >/dev/null || test -x $(VENV)/bin/uv || $(PY) -m pip install -q uv==0.13.9 || echo "==> no uv, using pip"
	@echo "==> installing .[$*] (about 5.5 GB on disk)"
	@PATH="$$PATH:$(CURDIR)/$(VENV)/bin"; if command -v uv >/dev/null; then uv pip install -p $(PY) $(FIND_LINKS) -c constraints.txt -e '.[$*]'; \
	else $(PY) -m pip install -c constraints.txt -e '.[$*]'; fi
	@rm -f $(VENV)/.$*-*; touch $@

.PHONY: setup demo test
