// Package accounts says who may do what through the HTTP API: workspaces, tokens, and what a token is good for.
//
// # Workspaces
//
// A workspace is a record of shard 0: networks of its NFS clients, and features that an operator has switched off. A file system belongs to one.
// The workspace "default" is always there.
//
// # Tokens
//
// A token is 256 random bits, written "rackfs_" and 43 characters of base64url. Shard 0 keeps its SHA-256: the token cannot be guessed, so there is
// nothing that a slow hash would protect. With the hash it keeps a name, a role, scopes, an end, and the uid and gid as which it acts in
// file systems. A scope is a workspace, or a file system of it, or a path in that and what is below; a token without scopes is for the whole cluster.
//
// Each call looks the token up at shard 0, by a linearizable read: a token that was revoked is refused from the next call on, at every gateway.
//
// # Who may do what
//
// May compares a Principal with what an operation needs: a role, at a place. A place that no scope of the token covers is refused with the same answer
// whether it exists or not. Roles include each other: viewers read, editors write files too, admins also manage what is in their scopes. What is about
// the whole cluster needs a token without scopes.
//
// Paths are compared as files.Path makes them: absolute, without "." and "..", and the API follows no symbolic links, so that a path is below a
// prefix exactly if its text is.
//
// # Guessing
//
// Failed attempts cost: each address (of IPv6 each /64) has a few, which come back slowly (Limiter). Tokens that were good lately are looked up in any
// case, so that nobody is locked out by a neighbour behind the same address.
//
// # Audit
//
// Every change that is asked for, and every refusal for lack of rights, is a line of the audit log (Audit): who, from where, what, to what, how it ended. It
// has ids and names of tokens, never a secret. Lines about callers who are nobody are bounded (NoteStranger), so that these cannot push the others out of it.
package accounts
