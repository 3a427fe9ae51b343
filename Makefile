# Run "make help" for what there is. Everything works from a clean clone: tools and libraries are installed on first use.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The version comes from git by -ldflags, not by -buildvcs: that would fail the build in a copy that git distrusts.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO_BUILD := go build -buildvcs=false -trimpath -ldflags "-X main.version=$(VERSION)"

# Flags for the program of "make run" and "make bench", e.g. make run ARGS="--listen 127.0.0.1:8700".
ARGS ?=

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | sort | while IFS=$$'\t' read -r target text; do \
	  printf '  %-16s %s\n' "$$target" "$$text"; done

.PHONY: deps
deps: ## Install SoftHSM and the embedded ClickHouse engine, if they are missing
	@scripts/deps.sh

.PHONY: build
build: ## Build bin/kms, the server, and bin/kmsctl, its client
	CGO_ENABLED=1 $(GO_BUILD) -o bin/kms ./cmd/kms
	CGO_ENABLED=0 $(GO_BUILD) -o bin/kmsctl ./cmd/kmsctl

.PHONY: run
run: deps build ## Run the server on ./data, with nothing to set up (ARGS="--listen …")
	@exec bin/kms serve $(ARGS)

.PHONY: test
test: deps ## Run all tests with the race detector
	go vet ./...
	go test -race -timeout 30m ./...

.PHONY: lint
lint: ## Check style, import rules, proto files and modules
	@lint=$$(scripts/tools.sh golangci-lint); "$$lint" config verify; "$$lint" run; "$$lint" fmt --diff
	@buf=$$(scripts/tools.sh buf); "$$buf" lint; "$$buf" format --diff --exit-code --path proto/kms --path proto/events
	@scripts/breaking.sh
	@scripts/fix.sh
	go mod tidy -diff

.PHONY: format
format: ## Format Go and proto files, and use what newer Go versions offer
	@lint=$$(scripts/tools.sh golangci-lint); "$$lint" fmt
	@buf=$$(scripts/tools.sh buf); "$$buf" format --write --path proto/kms --path proto/events
	go fix ./...

.PHONY: generate
generate: ## Generate Go code from the proto files
	@buf=$$(scripts/tools.sh buf); rm -rf proto/gen; "$$buf" generate

.PHONY: check-generated
check-generated: ## Check that the generated code is up to date
	@scripts/generated.sh

.PHONY: bench
bench: deps build ## Measure the server over loopback, durable records included (ARGS="--help")
	go run ./cmd/kmsbench $(ARGS)

.PHONY: test-crash
test-crash: deps ## Kill the server 20 times under load and check that nothing acknowledged is lost
	KMS_TEST_CRASH=20 go test -count 1 -v -run '^TestCrash' -timeout 60m ./cmd/kms

.PHONY: test-shred
test-shred: deps ## Kill the server 200 times while it shreds 1,000 keys and check that it always completes
	KMS_TEST_SHRED=200 go test -count 1 -v -run '^TestShredKilled' -timeout 60m ./cmd/kms

.PHONY: clean
clean: ## Remove what was built; data and caches stay
	rm -rf bin
