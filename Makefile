# make setup · make tour · make studio · make test · make bench · make lint · make tables
# Each one sets up .venv by itself first; `make setup` again after changing pyproject.toml is automatic.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Data for development, where it lies beside the checkout; tests that need a set which is not there skip.
export ALMANAC_DATA ?= $(wildcard $(CURDIR)/../shared/data)

.PHONY: setup tour studio test bench lint format tables clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; found $$($(PYTHON) --version)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) --no-print-directory debian PACKAGES=python3-venv
	@$(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --no-deps openai-whisper==20250625 # it asks for triton, which it uses on GPUs only
	@command -v chromium >/dev/null || $(MAKE) --no-print-directory debian PACKAGES="chromium fonts-noto-color-emoji"
	@command -v flite >/dev/null || $(MAKE) --no-print-directory debian PACKAGES=flite
	@command -v npm >/dev/null || $(MAKE) --no-print-directory debian PACKAGES=npm
	@npm install --silent --no-fund --no-audit --prefix .venv three@0.180.0 || echo "three.js could not be installed: races are not drawn"
	@touch $@

# Debian packages, when we may install them; else a line that says what is missing (browser tests skip without Chromium).
.PHONY: debian
debian:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing $(PACKAGES)"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null; \
	else echo "not root: install these packages by hand to have everything: $(PACKAGES)"; fi

tour: setup
	@$(BIN)/almanac tour

studio: setup
	@$(BIN)/almanac studio

# One thread a process: two busy OpenMP teams on two cores slow each other down tenfold.
test: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

bench: setup
	@$(BIN)/almanac bench cold-diffusion

lint: setup
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pyright
	@said=$$($(BIN)/lint-imports --no-cache) || { echo "$$said"; exit 1; }

format: setup
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

tables: setup
	@$(BIN)/python -m almanac.runtime.results

clean:
	rm -rf out .pytest_cache .ruff_cache
