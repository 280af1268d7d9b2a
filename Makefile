# The whole project in a few words; `make help` lists them. Every target installs what it misses.

CARGO ?= cargo
BINARIES = -p nfdrop-indexer -p nfdrop-server -p nfdrop-client
SCRIPTS = ci/install-deps ci/run-demo .ci/run

.DEFAULT_GOAL := help
.PHONY: help run test lint bench deny clean

help: ## Show this
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 15

run: ## Index the newest cloud kernels of your Debian mirror, serve and show a plan
	@ci/install-deps
	$(CARGO) build --release --locked $(BINARIES)
	@ci/run-demo

test: lint ## Everything CI checks: lint and all tests
	$(CARGO) test --workspace --all-features --locked

lint: ## Formatting, clippy and shellcheck; warnings are errors
	@ci/install-deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck $(SCRIPTS); \
	else echo 'shellcheck is missing: the shell scripts are not checked' >&2; fi

bench: ## CPU seconds of the resolver, and of whole kernels that `make run` has fetched
	@ci/install-deps
	$(CARGO) bench --locked -p nfdrop-indexer --bench cpu

deny: ## Licences, sources and duplicates of all dependencies; needs cargo-deny
	$(CARGO) deny --locked check bans licenses sources

clean: ## Remove what was built; the database and the cache stay
	$(CARGO) clean
