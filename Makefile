PYTHON ?= python3
VENV := .venv

.PHONY: demo test

# The environment with everything that tests need holds what the demo needs, too.
demo: $(VENV)/.demo
	$(VENV)/bin/python -m jaxft.train --config configs/digits.py --workdir runs/digits-$$(date +%Y%m%d-%H%M%S)

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest

$(VENV)/.demo: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -e '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -e '.[test]'
	touch $@
