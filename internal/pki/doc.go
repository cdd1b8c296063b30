// Package pki is the cluster's certificate authority: one self-signed ECDSA P-256 CA in a directory, and the node certificates
// it issues.
//
// A directory holds ca.crt and, where certificates are issued, ca.key. A node's directory holds ca.crt, node.crt and node.key. Files
// are written to a temporary name, synced, renamed, and the directory is synced, so that after a crash a file is there whole
// or not at all; keys have mode 0600 and a key that others can read is refused. The key is written before its certificate:
// a key without certificate is a creation that did not finish and is replaced.
//
// A node that joins makes its key itself and sends a request (NewRequest, CA.Sign); it verifies who answers by the CA's fingerprint (PinnedTLS).
// A certificate is renewed for the same key, so that one file changes, and a Holder gives the newest one to connections that are made
// after that.
//
// A node that was removed is refused by its key (Holder.Revoke), in new connections and in those that there are.
//
// A node's certificate carries its name as common name and as DNS name, so that ordinary host name verification checks it: a
// client says which node it expects, not which address it dialled. Roles are organizational units. Certificates serve both
// ends of a connection. Every peer is verified against this CA only, never against the system's.
package pki
