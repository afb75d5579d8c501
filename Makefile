# Everything here runs on a Debian 12 machine with Rust and make; QEMU, the guest kernel and the stock peers are fetched
# into a cache folder by tools/lab/setup.sh on first use. Nothing is installed on the machine.
.DEFAULT_GOAL := help
.PHONY: help build check test demo demo-guest demo-stop bench plots instructions fuzz-smoke soak vdpa-migration lab lab-clean clean

CARGO ?= cargo

# Checked before anything is built, because building takes longer than reading this.
define needs-root
@[ "$$(id -u)" = 0 ] || { \
  echo "make $@ needs root, for three things: a TAP device (CAP_NET_ADMIN), a network namespace (CAP_SYS_ADMIN) and"; \
  echo "moving the one into the other. Nothing is installed and nothing is left behind. Run it as root, for example:"; \
  echo '  sudo env "PATH=$$PATH" make $@'; exit 1; }
endef

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

build: ## release build: vswitchd, vsctl and vsgen in target/release
	$(CARGO) build --locked --release -p vswitch -p vsctl -p vsgen --bins

check: ## format, clippy, unit tests, docs, house rules: about a minute once warm (root, for tests that make network namespaces)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --quiet -- -D warnings
	$(CARGO) test --locked --workspace --exclude tests --quiet
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet
	$(CARGO) xtask tidy

test: ## every test, end to end with QEMU guests too: some minutes, needs root
	$(needs-root)
	$(CARGO) build --locked -p vswitch -p vsctl -p vsgen --bins
	$(CARGO) test --locked --workspace --no-fail-fast

demo: ## two guests talk through the switch while you watch (KEEP=1 leaves it up), needs root
	$(needs-root)
	$(CARGO) build --locked --release -p vswitch -p vsctl --bins
	$(CARGO) run --locked --release --quiet -p tests --bin demo

demo-guest: ## run CMD='...' in guest GUEST=1 or 2 of a demo that was kept
	@$(CARGO) run --locked --release --quiet -p tests --bin demo -- guest $(or $(GUEST),1) "$(CMD)"

demo-stop: ## end a demo that was kept
	@$(CARGO) run --locked --release --quiet -p tests --bin demo -- stop

bench: ## compare with OVS-DPDK and testpmd in alternating rounds, 45 minutes (ROWS=..., ROUNDS=..., SECONDS=...), needs root
	$(needs-root)
	$(CARGO) build --locked --release -p vswitch -p vsctl -p vsgen --bins
	$(CARGO) run --locked --release --quiet -p tests --bin bench

plots: ## draw docs/perf/*.svg from target/bench/results.json again (part of make bench)
	$(CARGO) run --locked --release --quiet -p tests --bin bench -- plots

instructions: ## instructions per packet by stage, against docs/perf/instructions.json (RECORD=1, STAGES=...), no root needed
	$(CARGO) run --locked --release --quiet -p tests --bin instructions

fuzz-smoke: ## every fuzz target for SECONDS (20) each
	tests/fuzz/smoke.sh

soak: ## 256 ports whose guests come and go at random for MINUTES (10), nothing lost and nothing leaked, needs root
	$(needs-root)
	$(CARGO) build --locked --release -p vswitch -p vsctl --bins
	$(CARGO) run --locked --release --quiet -p tests --bin soak -- $(or $(MINUTES),10)

vdpa-migration: ## a guest migrated from one virtual function to another, both QEMUs in a host guest, needs root
	$(needs-root)
	$(CARGO) build --locked -p vswitch -p vsctl --bins
	$(CARGO) test --locked -p tests --test long -- --exact --nocapture a_guest_is_migrated_from_function_to_function

lab: ## fetch what the end-to-end tests need, without running them
	tools/lab/setup.sh
	tools/lab/qemu11.sh
	tools/lab/kernel-with-cards.sh

lab-clean: ## delete the lab cache
	rm -rf "$${VSWITCH_LAB:-$${XDG_CACHE_HOME:-$$HOME/.cache}/vswitch-lab}"

clean: ## delete build results
	$(CARGO) clean
