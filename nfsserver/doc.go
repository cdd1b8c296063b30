// Package nfsserver is the NFS front end of a gateway: it puts together the RPC
// transport (package rpc), the client state (package state), the COMPOUND
// interpreter (package v4), file handles (package handle) and the export policy
// (package export) over any [vfs.FS].
//
//	srv, err := nfsserver.New(ctx, nfsserver.Config{
//		Cluster: id, Keys: keys, Store: store,
//		Exports: []export.Export{{ID: 1, FSID: 1, Path: "/default", FS: fs,
//			Rules: export.Everyone(export.ReadWrite, export.SquashRoot)}},
//	})
//	go srv.Serve(ln)
//	...
//	srv.Shutdown(ctx)
//
// # Rules
//
// The server knows vfs and nothing below it. What it must not forget over a
// restart is in the [state.StateStore] that it is given and, of files, with the vfs. If the store is a
// [state.SessionStore], clients go on after a restart, or at another server, as if nothing had happened.
//
// Exports and handle keys change while it runs ([Server.SetExports],
// [Server.SetKeys]); a request sees one version of them.
//
// Shutdown does not close what clients have open in the vfs: they come back and go on with it, or
// reclaim it.
package nfsserver
