// Package s3server runs a real S3 server for tests: versitygw on a directory, with a proxy in front of it that counts what is read and can hold answers back.
//
// The server is a tool of a module of its own (the directory gateway), so that what it depends on is not what rackfs depends on. The first test that needs it builds
// it, which takes two minutes of a processor; from then on it is in Go's cache.
package s3server
