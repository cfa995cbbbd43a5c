# `make` lists the targets. PYTHON chooses the interpreter, VENV the virtual environment that is made with it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install
INSTALL := $(PIP) --quiet
# $(call locked,title,file): install what a lock file names, with a line for each package, since that takes minutes.
define locked
	@echo "== $(1)"
	@{ PYTHONUNBUFFERED=1 $(PIP) --no-build-isolation --require-hashes -r $(2) || echo failed; } | \
	  while read -r verb what _; do case "$$verb $$what" in \
	    "Collecting "*) echo "   $$what";; "Building wheels") echo "   building what comes as source";; \
	    "Installing collected") echo "   installing all of these";; "failed "*) exit 1;; esac; done
endef
# Three more than there are cores: tests also wait, for servers, disks and time.
CORES := $(shell getconf _NPROCESSORS_ONLN)
WORKERS ?= $(shell expr $(CORES) + 3)

.DEFAULT_GOAL := help
.PHONY: help run test test-lowest test-browser test-spreadsheets pdf-check screenshots chaos contract bench bench-growth \
  bench-fdr bench-completeness bench-layers bench-memory bench-journal bench-reconcile bench-delivery bench-console bench-pdf \
  lint format lock \
  audit sbom fuzz \
  deploy-check docs dist release image-check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

run: $(VENV)/run ## set up and serve the station on SQLite at 127.0.0.1:8080
	$(BIN)/station migrate
	$(BIN)/station serve

# What pytest makes of the tests' files is written down by one process, before each of them would make it for itself.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/dev ## set up and run all tests, on SQLite and on a real PostgreSQL
	@$(BIN)/python -m pytest --collect-only -qq >/dev/null || true
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-lowest: $(VENV)/lowest ## serve and take a receipt in, with the lowest versions that pyproject.toml allows (Python 3.11)
	$</bin/python tests/lowest.py

test-spreadsheets: $(VENV)/dev ## open exports with LibreOffice, set to Italian, and compare each cell with the stored receipts
	@command -v soffice >/dev/null || \
	  { echo "soffice is needed: LibreOffice Calc (on Debian and Ubuntu: apt install libreoffice-calc)"; exit 1; }
	$(BIN)/python -m pytest tests/test_spreadsheets.py

test-browser: $(VENV)/browser ## use the console with Chromium: barriers, keyboard, no JavaScript, 320 pixels, bytes
	@command -v $${STATION_CHROMIUM:-chromium} >/dev/null || \
	  { echo "chromium is needed (on Debian: apt install chromium), or STATION_CHROMIUM=path of one"; exit 1; }
	$(BIN)/python -m pytest tests/browser

screenshots: $(VENV)/browser ## take the pictures of docs/it/console.md from the demonstration's console
	$(BIN)/python docs/site/screenshots.py

# veraPDF comes from Maven Central; the folder's path in var/ is the same for both halves.
PDFS := $(CURDIR)/var/pdf-check
pdf-check: $(VENV)/dev ## print 1,000 random receipts, compare each field, and have veraPDF judge the PDFs (Java 17, Maven)
	@command -v mvn >/dev/null || { echo "mvn is needed (on Debian and Ubuntu: apt install maven)"; exit 1; }
	rm -rf $(PDFS) && mkdir -p $(PDFS)
	PDF_CHECK_FOLDER=$(PDFS) $(BIN)/python -m pytest -n $(CORES) tests/test_pdf.py -k thousand
	mvn --quiet --batch-mode --file tests/pdf_check/pom.xml dependency:copy-dependencies -DoutputDirectory=$(PDFS)/lib
	printf '%s\n' $(PDFS)/*.pdf | \
	  xargs -P $(CORES) -n 250 java -XX:+UseSerialGC -cp '$(PDFS)/lib/*' tests/pdf_check/PdfCheck.java

# SCENARIO chooses by name (pytest -k), SEED the payments, moments and victims; REPORT gets a line of figures for each.
SCENARIO ?=
SEED ?= 1
REPORT ?= var/chaos.jsonl
chaos: $(VENV)/dev ## kill, freeze, fill and cut off everything under load; SCENARIO=name SEED=number (up to an hour)
	@mkdir -p $(dir $(REPORT))
	CHAOS_SEED=$(SEED) CHAOS_REPORT=$(REPORT) $(BIN)/python -m pytest tests/chaos $(if $(SCENARIO),-k "$(SCENARIO)")

# The published files are no part of the project: what a newer copy says otherwise is shown as a difference, and taken
# over by `> tests/data/...` in place of `| diff`.
contract: $(VENV)/dev ## compare the tables of pagoPA's contract in tests/data with PUBLISHED=folder (wsdl/, openapi/)
	@test -n "$(PUBLISHED)" || { echo "make contract PUBLISHED=folder with pagoPA's files in wsdl/ and openapi/"; exit 1; }
	$(BIN)/python tests/contract_model.py $(PUBLISHED)/wsdl/paForNode.wsdl | diff -u tests/data/contract_components.json -
	$(BIN)/python tests/openapi_model.py $(PUBLISHED)/openapi | diff -u tests/data/openapi_components.json -

lint: $(VENV)/dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev ## measure rates and floors, and write them to docs/performance.md (8 minutes)
	$(BIN)/python -m bench.measure

bench-growth: $(VENV)/dev ## measure with 10 million receipts stored, and write it to docs/performance.md
	$(BIN)/python -m bench.growth

bench-fdr: $(VENV)/dev ## measure the matching of flows against 10 million receipts, and write it to docs/performance.md
	$(BIN)/python -m bench.fdr

bench-completeness: $(VENV)/dev ## prove completeness on 100,000 payments, 1,000 of them without a receipt
	$(BIN)/python -m bench.completeness

bench-layers: $(VENV)/dev ## measure the station without its database, its HTTP server alone, and the plain libraries
	$(BIN)/python -m bench.layers

bench-memory: $(VENV)/dev ## memory of the workers over a million requests
	$(BIN)/python -m bench.memory

bench-journal: $(VENV)/dev ## the cost of the event journal for pushes
	$(BIN)/python -m bench.journal

bench-reconcile: $(VENV)/dev ## time and memory of the reconciliation of 100,000 listed receipts
	$(BIN)/python bench/reconcile.py

bench-delivery: $(VENV)/dev ## deliveries by webhook: rate, latency, what a dead destination and pushes cost (30 minutes)
	$(BIN)/python -m bench.delivery

bench-console: $(VENV)/dev ## measure the console beside ten million receipts, and write it to docs/performance.md
	$(BIN)/python -m bench.console

bench-pdf: $(VENV)/dev ## the time of a receipt's PDF, over 1,000 of them
	$(BIN)/python bench/pdf.py

# Without UPGRADE=--upgrade, what is locked stays as it is and only what is new is resolved.
lock: $(VENV)/dev ## write the lock files after a change of the dependencies (UPGRADE=--upgrade takes newer versions)
	$(INSTALL) uv
	for what in "pyproject.toml -o requirements.lock" "--group build -o requirements-build.lock" \
	  "pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock" \
	  "pyproject.toml --extra console --extra pdf -c requirements-dev.lock --no-emit-package django \
	    --no-emit-package asgiref --no-emit-package sqlparse -o requirements-console.lock" \
	  "--group browser -c requirements-dev.lock -o requirements-browser.lock" \
	  "--group audit -o requirements-audit.lock" "--group deploy -o requirements-deploy.lock" \
	  "--group fuzz -o requirements-fuzz.lock"; do \
	  UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 \
	  --generate-hashes --no-annotate $$what || exit 1; done

audit: $(VENV)/audit ## look for known vulnerabilities in all locked packages
	for lock in requirements*.lock; do \
	  echo "$$lock"; $(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement $$lock || exit 1; done

sbom: $(VENV)/audit ## write the software bill of materials (CycloneDX) to dist/sbom.json
	@mkdir -p dist
	$(VENV)/audit/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
	  --output-reproducible --of JSON -o dist/sbom.json

FUZZ_SECONDS ?= 300
fuzz: $(VENV)/fuzz ## look for inputs that break the request path for FUZZ_SECONDS (300), guided by coverage
	@mkdir -p .fuzz
	$(BIN)/python tests/fuzz_requests.py .fuzz tests/fuzz_cases -artifact_prefix=.fuzz/finding- \
	  -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -timeout=10 -rss_limit_mb=1024

deploy-check: $(VENV)/deploy ## lint the Dockerfile, check deploy/ against published schemas, the alerts by promtool if it is there
	$(VENV)/deploy/bin/hadolint Dockerfile
	$(VENV)/deploy/bin/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose/compose.yaml
	$(VENV)/deploy/bin/kubernetes-validate --strict --quiet deploy/kubernetes/*.yaml
	$(VENV)/deploy/bin/python deploy/grafana/check.py
	if command -v promtool >/dev/null; then \
	  promtool check rules deploy/prometheus/alerts.yml && promtool test rules deploy/prometheus/alerts_test.yml; fi

docs: $(VENV)/dev ## write the generated pages and build the documentation in dist/docs; a broken link is an error
	$(BIN)/python docs/site/reference.py
	$(BIN)/python -m zensical build --strict

BUILD := rm -f dist/pagopa_receipt_station-* && $(BIN)/python -m hatchling build -t sdist -t wheel -d dist
dist: $(VENV)/run ## build wheel and sdist in dist/, of the version in station/__init__.py
	$(BUILD)

release: $(VENV)/run ## check that all is committed and in CHANGELOG.md, build wheel and sdist, tag the version
	@version=$$($(BIN)/python -m hatchling version) && tag=v$$version && \
	  fail() { echo "No release: $$*" >&2; exit 1; } && \
	  { [ -z "$$(git status --porcelain)" ] || fail "git status shows changes; commit them first."; } && \
	  { grep -q "^## \[$$version\] - 20" CHANGELOG.md || fail "CHANGELOG.md has no section [$$version] with a date."; } && \
	  { ! git rev-parse --quiet --verify "refs/tags/$$tag" >/dev/null || fail "the tag $$tag exists; raise the version in station/__init__.py."; } && \
	  $(BUILD) && git tag --annotate "$$tag" --message "Station $$version" && \
	  echo "Tagged $$tag. Publish it with: git push origin $$tag"

image-check: ## build the image without Docker and start it (root, Debian's buildah and debootstrap; 5 to 10 minutes)
	deploy/image/check.sh

clean: ## remove the virtual environment and files left by tools
	rm -rf $(VENV) dist .cache .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The build tools first: Spyne is published as source only, and is built with these and not with whatever is newest.
$(VENV)/build: requirements-build.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) lacks the venv module (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "== A virtual environment in $(VENV), once: one to three minutes, most of them downloads"
	@$(PYTHON) -m venv $(VENV)
	$(call locked,Build tools,requirements-build.lock)
	@touch $@

$(VENV)/run: requirements.lock pyproject.toml | $(VENV)/build
	$(call locked,Libraries of the station,requirements.lock)
	@echo "== The station itself"
	@$(INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/dev: requirements-dev.lock $(VENV)/run
	$(call locked,Tools for tests and documentation,requirements-dev.lock)
	@touch $@

# Beside the tests' own libraries, since these tests use them, too. The browser itself comes from the system.
$(VENV)/browser: requirements-browser.lock $(VENV)/dev
	$(call locked,What drives a browser,requirements-browser.lock)
	@touch $@

# Tools that only look at lock files, or at what stands in deploy/, have an environment of their own.
$(VENV)/audit: requirements-audit.lock | $(VENV)/build
	$(PYTHON) -m venv $@
	$@/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-audit.lock
	@touch $@

$(VENV)/deploy: requirements-deploy.lock | $(VENV)/build
	$(PYTHON) -m venv $@
	$@/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-deploy.lock
	@touch $@

# What pyproject.toml names, as old as it allows; what that needs in turn is not ours to declare, and is the newest.
$(VENV)/lowest: pyproject.toml requirements-build.lock | $(VENV)/build
	@echo "== The lowest versions in $@"
	@$(PYTHON) -m venv --clear $@
	@$@/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-build.lock
	@$@/bin/python -m pip --disable-pip-version-check install --quiet uv
	@$@/bin/uv pip install --quiet --python $@ --resolution lowest-direct --no-build-isolation --editable ".[console,parquet,pdf]"
	@touch $@

$(VENV)/fuzz: requirements-fuzz.lock $(VENV)/dev
	$(call locked,The fuzzer,requirements-fuzz.lock)
	@touch $@
