// Package api is the cluster's HTTP API: JSON over HTTP, described by the OpenAPI 3.1 document that it serves at /api/openapi.json and
// that is made from the types of this package. Command line and dashboard do everything through it.
//
// Resources are one file each: filesystems.go, and so on. A resource has types (documented fields, for they are the public
// document), the handlers, and the methods of Client that call them.
//
// # Who may call
//
// The API is served on a unix socket in the data directory of each meta node and of `rackfs dev` (Listen, ServeHTTP). The directory is its owner's
// alone, so whoever can open the socket is the operator and may do everything. Gateways serve it to the network too (Public), to those who have a token: in a
// header, or, for browsers, in a cookie. Every operation goes through guard, which asks its rule (rules.go): what role it needs, at what place. Operations that have no
// rule are the operator's. Handlers find who calls with accounts.Of.
//
// # Files
//
// Paths are in the query, as percent-encoded bytes, so that every name can be said. Content is streamed: files.go has what answers JSON, content.go what streams, uploads.go the
// tus protocol. What takes long is a job (jobs.go).
//
// # Errors
//
// Every refusal is a Problem: the status of its kind, the kind's name, and a text that says what happened, to what, and what to do next. Client
// makes a vfs.Error of it again. Requests are checked against the document before a handler sees them, and bodies are bounded.
package api
