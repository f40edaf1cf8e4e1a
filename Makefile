# Two commands are enough: `make demo` and `make test`. Everything they leave lies in this folder.
PYTHON ?= python3
BIN := .venv/bin
PAGE := tasks/viewer/page/index.html
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export npm_config_cache := $(CURDIR)/.cache/npm

.PHONY: demo viewer up down deploy test quick e2e soak lint bench bench-record bench-peers bench-gpu slurm images compose-check infra-check train picture lock clean bench-scale evidence

# .venv/installed is what running needs, .venv/installed-dev what tests and `make up` need besides.

demo: .venv/installed $(PAGE)
	$(BIN)/cohortlens demo

viewer: $(PAGE)

# PostgreSQL, Prefect, SeaweedFS and Dask as processes on this machine; docs/schedule.md.
up: .venv/installed-dev $(PAGE)
	$(BIN)/python -m infra.local up

down: .venv/installed-dev
	$(BIN)/python -m infra.local down

# Registers deployments/ with the Prefect server of `make up`, or that of PREFECT_API_URL; again and again.
deploy: .venv/installed
	$(BIN)/python -m deployments

test: lint $(PAGE)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

# The topology of `make up` put through a day of its life; some ten minutes on two cores.
e2e: .venv/installed-dev
	$(BIN)/pytest tests/e2e --timeout 1800 -s

# The fault suite with more images, seeds, faults and mutated files; most of an hour on two cores.
soak: .venv/installed-dev
	COHORTLENS_SOAK=1 COHORTLENS_FUZZ=10000 OMP_NUM_THREADS=1 $(BIN)/pytest tests/faults \
		tests/models/test_invariance.py tests/tasks/test_interrupted.py tests/tasks/test_verify.py --timeout 7200

# What tests/quick.py leaves of the tests: a minute on two cores, after half a minute of types the first time.
quick: lint $(PAGE)
	OMP_NUM_THREADS=1 $(BIN)/pytest -p tests.quick --numprocesses 2

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every ratio to bare passes and to Captum, with its error and its goal; fails where one has fallen.
bench: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks

# Keeps what is measured as what later runs are held against, and makes docs/speed.md of it.
bench-record: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks --record

# Other packages on the same work, in an environment of their own; a quarter of an hour.
bench-peers: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.peers

# The measured part of docs/gpu.md, where there is a GPU.
bench-gpu: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.gpu

# Makes the README's picture again, from the demo's report; needs chromium.
picture: demo
	$(BIN)/python docs/picture.py out/demo/report/index.html

# The demo cohort by jobs of a real SLURM on this machine, of Debian's packages; a minute.
slurm: .venv/installed-dev
	command -v slurmctld && command -v munged || apt-get install --yes --quiet --no-install-recommends slurm-wlm munge
	$(BIN)/pytest tests/infra/on_slurm.py

# The CPU image, built and run here without a registry. It needs root, some 10 GB and ten minutes, and installs podman, runc,
# buildah, debootstrap, netavark, aardvark-dns and catatonit of Debian where they are lacking.
images: .venv/installed-dev
	$(BIN)/pytest tests/infra/on_image.py

# infra/compose.yaml in containers by podman-compose, with stand-ins for the images that come from a registry, and what
# podman takes of infra/kubernetes. It needs what `make images` needs.
compose-check: .venv/installed-dev
	$(BIN)/pytest tests/infra/on_compose.py tests/infra/on_kube.py

# What `make test` leaves out since it needs an environment of its own or the package index: a scan, by the policies of
# checkov, a run where nothing but scratch can be written, and whether there is all that the images install.
infra-check: .venv/installed-dev
	test -d .cache/checkov || $(PYTHON) -m venv .cache/checkov
	.cache/checkov/bin/pip install --quiet checkov
	.cache/checkov/bin/checkov --directory infra --framework dockerfile terraform secrets --compact --quiet --skip-download
	$(BIN)/pytest tests/infra/on_read_only_root.py
	$(INSTALL) --dry-run --ignore-installed --quiet --requirement requirements.lock --requirement requirements-gpu.lock

# What a run of 10,000 to 1,000,000 images costs beside the explaining; half an hour on two cores.
bench-scale: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.planning
	$(BIN)/python -m tests.benchmarks.scale

# Every explainer against every metric where the truth is known, written to docs/evidence.md. The quick metrics evaluate
# IMAGES images, every metric EVERY of them (0: that is left out), which takes some 20 seconds of a core each.
IMAGES ?= 1000
EVERY ?= $(IMAGES)
evidence: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.evidence --images $(IMAGES) --every $(EVERY)

# Makes the shipped weights again; an hour on one core.
train: .venv/installed
	$(BIN)/cohortlens train --dims 2 --output models/networks/weights
	$(BIN)/cohortlens train --dims 3 --images 2000 --held-out 400 --epochs 7 --learning-rate 2e-3 --output models/networks/weights
	$(BIN)/cohortlens train --shuffled --images 500 --epochs 64 --output models/networks/weights
	$(BIN)/cohortlens train --marker --images 1000 --epochs 4 --output models/networks/weights
	$(BIN)/cohortlens train --network prototypes --images 2000 --epochs 5 --output models/networks/weights
	$(BIN)/cohortlens train --network bcos --images 3000 --epochs 12 --output models/networks/weights
	$(BIN)/cohortlens train-autoencoder --output models/networks/weights

# torch has no hash in a lock (requirements-torch.txt says why), so it is installed by a command of its own.
INSTALL := $(BIN)/pip install --no-deps --require-hashes
.venv/installed: requirements.lock requirements-viewer.lock requirements-torch.txt pyproject.toml
	@echo 'Installing what running needs into .venv, 1 GB of packages and torch: a minute or more'
	$(PYTHON) -m venv .venv
	$(INSTALL) --requirement requirements.lock --requirement requirements-viewer.lock
	$(BIN)/pip install --requirement requirements-torch.txt
	$(BIN)/pip install --no-deps --no-build-isolation --editable .
	$(BIN)/pip check
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock
	@echo 'Installing what tests need besides into .venv, another 0.8 GB: half a minute or more'
	$(INSTALL) --requirement requirements-dev.lock
	$(BIN)/pip check
	touch $@

# The page that cohortlens view shows, by the node that requirements-viewer.lock brings, and what package-lock.json names.
$(PAGE): .venv/installed $(wildcard viewer/*.* viewer/src/*.* viewer/src/*/*.*)
	$(BIN)/python -m viewer.build
	touch $@

# Pins what pyproject.toml's ranges give today; requirements-torch.txt is edited by hand.
lock:
	$(PYTHON) -m venv .cache/lock && .cache/lock/bin/pip install --quiet --upgrade uv
	UV_CACHE_DIR=$(CURDIR)/.cache/uv .cache/lock/bin/python infra/lock.py

clean:
	rm -rf .venv .cache .cohortlens out
