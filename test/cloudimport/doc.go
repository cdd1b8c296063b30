// Package cloudimport tests imports as users meet them: a cluster in a process of its own, which is killed in the middle, and a real S3 server.
package cloudimport
