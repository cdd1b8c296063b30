// Package api is the cluster's HTTP API: JSON over HTTP, described by the OpenAPI 3.1 document that it serves at /api/openapi.json and
// that is made from the types of this package. Command line and dashboard do everything through it.
//
// Resources are one file each: filesystems.go, and so on. A resource has types (documented fields, for they are the public
// document), the handlers, and the methods of Client that call them.
//
// # Who may call
//
// The API is served on a unix socket in the data directory of each meta node and of `rackfs dev` (Listen). The directory is its owner's
// alone, so whoever can open the socket is an administrator. It has no tokens and is not served on the network.
//
// # Errors
//
// Every refusal is a Problem: the status of its kind, the kind's name, and a text that says what happened, to what, and what to do next. Client
// makes a vfs.Error of it again. Requests are checked against the document before a handler sees them, and bodies are bounded.
package api
