# Names for commands. What they do is in the scripts and in Cargo.toml.

PREFIX ?= /opt/cni
DESTDIR ?=
T ?= 60
N ?= 10000
CONTAINERS ?= 500
SEED ?= 1
KERNELS ?= bookworm trixie
OLD ?=
TARGET ?=
export TARGET
API ?= 1.20
NODES ?= 50
PODS ?= 100
CHURN ?= 20

.PHONY: help build release deb image install demo demo-capture dashboard-picture check test torture soak soak-agent fuzz test-clients test-packages test-kubernetes test-kernels test-arm64 test-release sanitize bench bench-agent bench-hook bench-packets bench-quick bench-load bench-pair bench-check simulate clean
.NOTPARALLEL:

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 17

build: ## dist/autoport and dist/autoport-agent, static; debug symbols, completions, man pages beside them. TARGET=aarch64-unknown-linux-gnu: for that machine, in dist/TARGET
	@integration/setup.sh build
	scripts/build.sh autoport autoport-agent

release: ## what a release consists of, in dist, and SHA256SUMS of it; TARGET="TRIPLE TRIPLE" for several machines
	@for target in $(or $(TARGET),""); do TARGET=$$target integration/setup.sh build || exit; done
	scripts/release.sh $(TARGET)

deb: dist/autoport dist/autoport-agent ## a Debian package in dist
	@scripts/deb.sh

image: dist/autoport dist/autoport-agent ## an OCI image in dist, which podman, docker, skopeo and ctr load
	@scripts/image.sh

dist/autoport dist/autoport-agent:
	@$(MAKE) build

install: ## dist/autoport to $(DESTDIR)$(PREFIX)/bin (PREFIX=/opt/cni)
	@[ -e dist/autoport ] || $(MAKE) build
	mkdir -p "$(DESTDIR)$(PREFIX)/bin"
	cp dist/autoport "$(DESTDIR)$(PREFIX)/bin/.autoport.new"
	chmod 0755 "$(DESTDIR)$(PREFIX)/bin/.autoport.new"
	mv -f "$(DESTDIR)$(PREFIX)/bin/.autoport.new" "$(DESTDIR)$(PREFIX)/bin/autoport"

demo: ## two pods on a throwaway node, a page through a host port, and what it looks like; the first time about 4 minutes and a download
	@integration/setup.sh demo
	@scripts/build.sh
	@integration/demo.sh

demo-capture: ## the same, and what it prints goes into docs/demo.md
	@integration/setup.sh demo
	@scripts/build.sh
	scripts/demo-capture.sh

dashboard-picture: ## docs/img/dashboard.png: three nodes at work, Prometheus, and Chromium, which draws the dashboard; 12 minutes
	@integration/setup.sh picture
	cargo build --locked --package autoport-agent
	TMPDIR=/dev/shm AUTOPORT_PICTURE=$(CURDIR)/docs/img/dashboard.png scripts/namespaces.sh \
		cargo test --locked --package autoport-agent --test node -- --ignored --exact picture::the_dashboard_is_drawn
	pngquant --force --skip-if-larger --ext .png docs/img/dashboard.png

check: ## format, lints, documentation, scripts, licences
	@integration/setup.sh check
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --test integration --test runtimes --test kubernetes -- -D warnings
	cargo clippy --locked --package autoport-agent --test node --test simulate -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items
	shellcheck .ci/run scripts/*.sh integration/*.sh integration/*/*.sh
	cargo test --locked --test licences

test: ## every test: of the modules, of the project, of real packets in namespaces
	@integration/setup.sh test
	cargo test --locked --workspace --no-fail-fast
	scripts/namespaces.sh cargo test --locked --test integration
	scripts/namespaces.sh cargo test --locked --package autoport-agent --test node

soak: ## N=10000 random operations of 16 processes, with kills and damage; the order is SEED's
	@integration/setup.sh test
	SOAK_N=$(N) SOAK_SEED=$(SEED) scripts/namespaces.sh cargo test --locked --test integration soak:: -- --nocapture

fuzz: ## T=60 seconds of random bytes for each door; libFuzzer where there is a nightly toolchain
	@integration/setup.sh fuzz
	scripts/fuzz.sh $(T)

torture: ## every point at which a command can be killed or fail, however alike
	@integration/setup.sh test
	AUTOPORT_TORTURE=1 scripts/namespaces.sh cargo test --locked --test integration -- kill:: faults::

test-clients: ## podman, containerd and libcni drive the plugin; as root, or with sudo
	@integration/setup.sh clients
	cargo build --locked --package autoport-agent
	cargo test --locked --test runtimes --config "target.'cfg(unix)'.runner='scripts/as-root.sh'" -- --test-threads=4
	scripts/namespaces.sh cargo test --locked --test integration libcni::
	cargo test --locked --package autoport-agent --test node --config "target.'cfg(unix)'.runner='scripts/as-root.sh'" \
		-- --ignored --exact taken::a_process_that_takes_the_port_of_a_pod_is_reported_once \
		status::a_listener_of_another_cgroup_does_not_make_a_pod_ready
	cargo test --locked --package autoport-agent --lib --test node --config "target.'cfg(unix)'.runner='scripts/as-root.sh'" \
		-- --include-ignored hook:: --skip hook::actor --skip hook::figures --skip hook::sctp

test-packages: dist/autoport dist/autoport-agent ## the package, the image, the manifests, the chart, the monitoring and the units, built and inspected
	@integration/setup.sh packages
	integration/packages.sh
	cargo build --locked --package autoport-agent
	scripts/namespaces.sh cargo test --locked --package autoport-agent --test node \
		-- --ignored monitoring::

test-kubernetes: ## a Kubernetes node does; builds Kubernetes first, once (10 minutes). API=1.36: with another API server, built too
	@integration/setup.sh $(if $(filter 1.36,$(API)),api,kubernetes)
	cargo build --locked --package autoport-agent
	AUTOPORT_API=$(API) cargo test --locked --test kubernetes --config "target.'cfg(unix)'.runner='scripts/as-root.sh'" -- --test-threads=3
	$(if $(filter 1.36,$(API)),scripts/namespaces.sh cargo test --locked --package autoport-agent --test simulate)

test-kernels: ## suites of the tests on the kernels of these Debian releases, in emulated machines
	@KERNELS="$(KERNELS)" integration/setup.sh kernels
	scripts/kernels.sh $(KERNELS)

test-arm64: export TARGET = aarch64-unknown-linux-gnu
test-arm64: ## the plugin built for arm64, in the suites `kernel` and `traffic` on an emulated machine with Debian's kernel
	@KERNELS=bookworm integration/setup.sh kernels
	scripts/build.sh autoport
	PLUGIN=dist/$(TARGET)/autoport SUITES="$(or $(SUITES),kernel traffic)" scripts/kernels.sh bookworm

test-release: ## two clones of this commit in different folders, and whether their releases are the same bytes; two release builds
	@integration/setup.sh build
	integration/release.sh $(TARGET)

sanitize: ## the tests under AddressSanitizer and Miri, with a nightly toolchain
	@integration/setup.sh test
	scripts/sanitize.sh

ifeq ($(STAGE),agent)
bench: bench-agent
else ifeq ($(STAGE),hook)
bench: bench-hook
else ifeq ($(STAGE),packets)
bench: bench-packets
else
bench: ## STAGE=.. for one part; what it costs beside portmap: the tables and pictures of docs/performance.md
	@integration/setup.sh bench
	@scripts/build.sh
	scripts/bench.sh $(STAGE)
endif

soak-agent: ## CONTAINERS=500 created by containerd while one of the node's two agents is killed or stopped; as root
	@integration/setup.sh clients
	cargo build --locked --package autoport-agent
	SOAK_CONTAINERS=$(CONTAINERS) cargo test --locked --test runtimes --config "target.'cfg(unix)'.runner='scripts/as-root.sh'" \
		-- --ignored --nocapture while_one_of_two_agents_is_hit

bench-agent: dist/autoport dist/autoport-agent ## or bench STAGE=agent: what the node agent adds to containerd's calls, what it takes while idle, and how soon it restores the table; as root
	@integration/setup.sh clients
	AUTOPORT_AGENT=$(CURDIR)/dist/autoport-agent cargo test --locked --test runtimes \
		--config "target.'cfg(unix)'.runner='scripts/as-root.sh'" -- --ignored --nocapture what_the_agent_costs
	TMPDIR=/dev/shm AUTOPORT_AGENT=$(CURDIR)/dist/autoport-agent scripts/namespaces.sh \
		cargo test --locked --package autoport-agent --test node -- --ignored --nocapture --test-threads=1 figures::
	AUTOPORT_AGENT=$(CURDIR)/dist/autoport-agent scripts/namespaces.sh \
		cargo test --locked --test integration -- --include-ignored --nocapture --test-threads=1 the_time_to_restore_of_the_agent

bench-hook: dist/autoport-agent ## or bench STAGE=hook: what the bind hook and the port guard add to calls, throughput and sandboxes; as root
	TMPDIR=/dev/shm AUTOPORT_AGENT=$(CURDIR)/dist/autoport-agent cargo test --locked --package autoport-agent --test node \
		--config "target.'cfg(unix)'.runner='scripts/as-root.sh'" -- --ignored --nocapture --test-threads=1 hook::figures::

bench-packets: dist/autoport ## or bench STAGE=packets: instructions of packets, beside portmap and without it, on Debian's kernel in an emulated machine
	@KERNELS=trixie SUITES=packets integration/setup.sh kernels
	scripts/bench-packets.sh

bench-quick: ## the same a few times only, with a debug build: shows that it runs
	@integration/setup.sh test
	scripts/bench.sh --quick

bench-load: dist/autoport ## what attackers can do to the commands of others, beside a quiet node; as root
	@integration/setup.sh test
	scripts/bench-load.sh

bench-pair: dist/autoport ## OLD=FILE: ADD and DEL of one port by that build and by dist/autoport, taking turns
	@integration/setup.sh test
	scripts/bench-pair.sh "$(OLD)"

bench-check: ## instructions and system calls against bench/figures; ACCEPT=1 puts them on record
	@integration/setup.sh test
	scripts/bench-check.sh $(if $(ACCEPT),--accept)

simulate: dist/autoport-agent ## NODES=50 agents beside a real API server, PODS=100 on each, CHURN=20 of all replaced in a second: what the API server is asked, and when it knows the ports; 10 minutes
	@integration/setup.sh simulate
	TMPDIR=/dev/shm AUTOPORT_AGENT=$(CURDIR)/dist/autoport-agent SIMULATE_NODES=$(NODES) SIMULATE_PODS=$(PODS) SIMULATE_CHURN=$(CHURN) \
		scripts/namespaces.sh cargo test --locked --package autoport-agent --test simulate -- --ignored --nocapture --test-threads=1

clean: ## remove what was built; target/tools, which takes a download, stays
	cargo clean --workspace
	rm -rf dist
