# make map    soil moisture maps of Grant County, Washington, from the demo world
# make test   format, lint, types and all tests
# make stress  batches whose workers, scheduler and command are killed repeatedly (up to an hour)
# make docs   the documentation site, in build/site
# make screenshots  rebuild the pictures of the viewer in docs from the demo world (needs Chromium)
# make bench  the speed of this code beside the machine's limits; AGAINST=REV compares it with another revision, in turn
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DAYS := --date 2021-07-29 --date 2021-08-08

.PHONY: map test docs screenshots stress bench check install format clean

map: $(INSTALLED)
	$(BIN)/mmnet stack --aoi examples/grant_county.geojson --start 2021-07-29 --end 2021-08-08 --source demo --out build/demo.zarr
	$(BIN)/mmnet-map --aoi examples/grant_county.geojson $(DAYS) --stack build/demo.zarr --out maps

test: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --durations 10  # a process a core: more threads fight

check: test

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

screenshots: $(INSTALLED)
	$(BIN)/python docs/screenshots.py

stress: $(INSTALLED)
	MMNET_STRESS=1 $(BIN)/pytest -m stress -s tests/integration

bench: $(INSTALLED)
	mkdir -p build
	$(BIN)/python benchmarks/bench.py $(if $(AGAINST),--against $(AGAINST)) --json build/bench.json

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[batch,dev,docs,earthengine,serve,train,viewer,zones]"
	touch $@

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build maps
