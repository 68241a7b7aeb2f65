# The newest Python of those that the tests have run on, also one that pyenv has installed. JAX 0.11 and later need 3.12;
# with 3.11 comes JAX 0.10.2. Any other: make PYTHON=/path/to/python3 test
PYTHON ?= $(shell \
	for version in 3.13 3.12 3.11; do \
		for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python3; do \
			"$$python" -c "import ensurepip, venv" 2>/dev/null && echo "$$python" && exit; \
		done; \
	done; echo python3)
OLDEST ?= python3.11
VENV := .venv

.PHONY: demo test test-oldest

# The environment with everything that tests need holds what the demo needs, too.
demo: $(VENV)/.demo
	$(VENV)/bin/python -m jaxft.train --config configs/digits.py --workdir runs/digits-$$(date +%Y%m%d-%H%M%S)

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest

# What depends most on the version of JAX, on the oldest one that is supported.
test-oldest:
	$(MAKE) PYTHON=$(OLDEST) VENV=.venv-oldest .venv-oldest/.test
	.venv-oldest/bin/python -m pytest tests/models/layers tests/detection tests/training/test_step.py \
		tests/training/test_resume.py tests/training/test_graph_mode.py tests/test_api.py tests/test_commands.py

$(VENV)/.demo: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -e '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -e '.[test]'
	touch $@
