# Everything a newcomer and CI need: `make run` and `make test` set up the rest.
SHELL := /bin/bash
GO    ?= go
DATA  ?= data
# A node with a local volume, which acts as its users and so needs root.
LOCAL ?= $(if $(filter 0,$(shell id -u)),--local 127.0.0.1:2050)

# How long each fuzz target runs.
FUZZTIME ?= 3s

# The packages whose tests take longest begin first, so that nothing long is left to run alone at the end; go test keeps
# the order of its arguments, runs none twice, and prints in that order.
LONGEST ?= ./test/kernel ./test/cluster

# All is compiled as the product is, without C (0099): what build, lint and tests compile is then compiled once.
export CGO_ENABLED = 0
BUILDFLAGS ?= -trimpath

.PHONY: build run test test-long fuzz bench bench-go lint generate setup man web

build:
	$(GO) build $(BUILDFLAGS) -o bin/rackfs ./cmd/rackfs

# A whole cluster in one process, ready to mount. DATA=DIR chooses where it lives.
run: build
	bin/rackfs dev --data $(DATA) $(LOCAL)

# Manual pages of all commands, into bin/man.
man: build
	bin/rackfs man bin/man

# Installs what the tests need beyond Go (Debian, as root); does nothing when it is there.
setup:
	@scripts/setup-test.sh

# -trimpath makes another object of every package, so it is not for the binary of the tests.
test test-long: BUILDFLAGS =

# lint has vetted.
test: setup lint build
	$(GO) test -vet=off -timeout 30m $(LONGEST) ./...
	FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

test-long: setup lint build
	RACKFS_TEST_LONG=1 $(GO) test -vet=off -timeout 180m $(LONGEST) ./...
	FUZZTIME=5m scripts/fuzz.sh

# Every fuzz target for FUZZTIME; `make fuzz FUZZTIME=10m` before a release.
fuzz:
	FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

# A short measurement of everything against plain directories, in a few minutes; BENCH_DIR=DIR chooses the disk.
bench: build
	scripts/bench.sh

# Benchmarks of the inner parts, once.
bench-go:
	$(GO) test -run '^$$' -bench . -benchmem ./...

lint:
	@test -z "$$(gofmt -l $$(git ls-files "*.go"))" || { echo "gofmt would change:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# Only after a change of a .proto file; needs protoc (Debian: protobuf-compiler).
generate:
	@mkdir -p bin/tools
	$(GO) build -o bin/tools/ google.golang.org/protobuf/cmd/protoc-gen-go github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto
	PATH="$(CURDIR)/bin/tools:$$PATH" protoc -I raftmeta/metapb --go_out=raftmeta/metapb --go_opt=paths=source_relative \
	  --go-vtproto_out=raftmeta/metapb --go-vtproto_opt=paths=source_relative,features=marshal+unmarshal+size+clone meta.proto

# Only after a change in web/ or of the API that it calls; needs node and npm, and the network for what package-lock.json pins. Commit web/openapi.json, web/src/api/schema.d.ts and web/dist.
web:
	$(GO) test ./web -run TestAPIHasWhatIsCalled -update
	cd web && npm ci && npm run types && npm run check && npm run build
