// Package metapb holds the generated types of meta.proto: commands, queries
// and records of the replicated metadata. Regenerate with `make generate`
// (needs protoc; the Go plugins are pinned in go.mod).
package metapb
