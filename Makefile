# The whole project in a few words; `make help` lists them. Every target installs what it misses.

CARGO ?= cargo
FUZZ_SECONDS ?= 900
BINARIES = -p nfdrop-indexer -p nfdrop-server -p nfdrop-client -p nfdrop-ci
SCRIPTS = ci/install-deps ci/build-static ci/build-packages ci/licences ci/reproducible ci/sbom ci/run-demo .ci/run $(addprefix ci/workflows/,crawl gate issues keep prove publish restore) $(addprefix tests/guest/,bpftrace client cost flood init many scenario sites start)

.DEFAULT_GOAL := help
.PHONY: help run client-static packages reproducible sbom test test-kernels lint bench bench-crawl bench-kernel bench-server fuzz mutants recheck deny clean

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

run: ## Index the newest cloud kernels of your Debian mirror, prove a plan, serve and show it
	@ci/install-deps
	$(CARGO) build --release --locked $(BINARIES)
	@ci/run-demo

client-static: ## The client as one static file for every distribution; prints where it is
	@ci/install-deps
	@CARGO='$(CARGO)' ci/build-static nfdrop-client

packages: ## .deb and .rpm of client, server and gate, of static programs; prints where they are
	@ci/install-deps
	@CARGO='$(CARGO)' ci/build-static nfdrop-client nfdrop-server nfdrop-indexer nfdrop-ci >&2
	@ci/build-packages "$${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu/dist" target/packages

reproducible: ## The static client built twice, in two folders: the same bytes, or it fails
	@ci/install-deps
	@CARGO='$(CARGO)' ci/reproducible

sbom: ## What each program is made of, as CycloneDX; prints where it is
	@ci/install-deps
	@command -v cargo-cyclonedx >/dev/null || $(CARGO) install --locked cargo-cyclonedx
	@CARGO='$(CARGO)' ci/sbom target/sbom

test: lint ## Everything CI checks: lint and all tests
	@ci/install-deps test
	$(CARGO) test --workspace --all-features --locked

test-kernels: ## Plans on real kernels, in QEMU: bodies with conditions, shapes of plans, the newest of every series
	@ci/install-deps
	$(CARGO) test --locked -p nfdrop-tests --test bpftrace --test kernels --test prove -- \
		--include-ignored --nocapture

recheck: ## Plans of the corpus, and of the extracts in NFDROP_EXTRACTS, on a second machine
	@ci/install-deps test
	$(CARGO) test --locked -p nfdrop-tests --test recheck -- --nocapture

SCRIPTS += $(addprefix docs/rehearsal/,boot guest init)
lint: ## Formatting, clippy and shellcheck; warnings are errors
	@ci/install-deps
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck $(SCRIPTS); \
	else echo 'shellcheck is missing: the shell scripts are not checked' >&2; fi
	@if command -v actionlint >/dev/null; then actionlint ci/workflows/*.yml; fi

bench-kernel: ## What learning of drops costs, in instructions per packet, on real kernels in QEMU
	@ci/install-deps
	$(CARGO) test --locked --all-features -p nfdrop-tests --test cost -- --ignored --nocapture --test-threads 1

bench: ## CPU seconds of the resolver, of whole kernels that `make run` has fetched, and what proving them takes
	@ci/install-deps
	$(CARGO) build --release --locked -p nfdrop-client
	$(CARGO) bench --locked -p nfdrop-ci --bench prove
	$(CARGO) bench --locked -p nfdrop-indexer --bench cpu

bench-crawl: ## A crawl from the first byte to the stored plan, beside dpkg-deb and tar
	@ci/install-deps
	$(CARGO) bench --locked -p nfdrop-indexer --bench crawl

bench-server: ## Answers a second, beside a bare handler and debuginfod; makes a database of 3 GB once
	@ci/install-deps bench
	$(CARGO) build --release --locked -p nfdrop-server
	$(CARGO) bench --locked -p nfdrop-server --bench load

mutants: ## 20,000 changed functions; each gets the same plan, one that holds, or a reason
	@ci/install-deps
	NFDROP_MUTANTS=20000 $(CARGO) test --release --locked -p nfdrop-tests --test mutants -- --nocapture

# libFuzzer's instrumentation is a nightly option of rustc; RUSTC_BOOTSTRAP has stable take it.
fuzz: ## Fuzz what reads files of strangers: an hour, or FUZZ_SECONDS for each target
	@ci/install-deps fuzz
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	@for target in load_resolve raw_image packages pacman apk sources rpm_md arch_sources records; do \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none $$target -- \
			-rss_limit_mb=512 -timeout=60 -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

deny: ## Licences, sources and duplicates of all dependencies
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check bans licenses sources

.PHONY: book
book: ## The handbook as pages, in target/book; needs mdbook
	@command -v mdbook >/dev/null || { \
		echo 'mdbook is missing: $(CARGO) install --locked mdbook@0.5.4 (the pages can be read in docs/src, too)' >&2; exit 1; }
	mdbook build docs

clean: ## Remove what was built; the database and the cache stay
	$(CARGO) clean
