# make demo: enlarge a photograph, train and compare two small networks.
# make test: ruff and all tests; make quick: ruff and the tests of what changes most often.
# All set up .venv first, once. PYTHON=/path/to/python chooses the interpreter (3.10 to 3.12).
# make smoke: the wheel in an empty environment, without BasicSR (also 3.13).

VENV := .venv
INSTALLED := $(VENV)/.installed
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.12 python3.11 python3.10)
IN_RANGE := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))

PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal
# A minute on two cores: what checks option files, their keys and the pages.
QUICK := tests/check tests/layers tests/options tests/test_architecture.py tests/test_docs.py \
	--ignore=tests/check/test_mutations.py

.PHONY: demo test quick lint setup smoke clean

demo: $(INSTALLED)
	$(VENV)/bin/contrast-arch demo

test: lint
	$(PYTEST)

quick: lint
	$(PYTEST) $(QUICK)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# In a copy of the committed files: a build takes along what an earlier one left behind.
smoke:
	rm -rf .smoke
	$(firstword $(PYTHON) python3) -m venv .smoke
	git archive --prefix=source/ HEAD | tar -x -C .smoke
	.smoke/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps -w .smoke .smoke/source
	.smoke/bin/python -m pip --disable-pip-version-check install .smoke/*.whl
	cd .smoke && bin/python source/tests/smoke.py

setup: $(INSTALLED)

# BasicSR's setup imports torch: with build isolation pip would download torch a second time for that build alone.
$(INSTALLED): pyproject.toml
	@set -eu; \
	fail() { printf '\nset-up: %s\n' "$$1" >&2; exit 1; }; \
	step() { \
		what="$$1"; shift; echo "set-up: $$what"; \
		$(PIP) install --quiet "$$@" || fail "installing $$what failed, see above. pip needs the network (or a mirror in its configuration) and about 6 GB of disk. Then call make again."; \
	}; \
	python=''; \
	for candidate in $(CANDIDATES); do \
		if "$$candidate" -c '$(IN_RANGE)' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	[ -n "$$python" ] || fail 'none of "$(CANDIDATES)" is a Python 3.10 to 3.12 (BasicSR 1.4.2 does not build on 3.13). Install one (on Debian: apt install python3 python3-venv) or name one: make PYTHON=/path/to/python3.11'; \
	echo "set-up: $(VENV) with $$("$$python" --version), a few minutes and about 6 GB"; \
	"$$python" -m venv $(VENV) || fail 'making a virtual environment failed. On Debian: apt install python3-venv'; \
	step 'pip and build tools' --upgrade pip setuptools wheel cython numpy; \
	step 'PyTorch' torch torchvision; \
	step 'BasicSR 1.4.2 from source' --no-build-isolation 'basicsr==1.4.2'; \
	step 'contrast_arch and its tools' --editable '.[dev]'; \
	echo 'set-up: kernels, compiled once'; \
	$(VENV)/bin/contrast-arch warmup || true; \
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) .smoke build *.egg-info
