// Package server puts the stores of a node behind internal/wire. One Server
// serves all disks of the node; requests name the disk.
//
// Who may do what follows from the roles in the peer's certificate:
//
//	Put                       gateway
//	Get                       gateway; block, of placement groups it is a member of
//	Stat, List, Info, Upkeep  gateway, meta, block
//	Fence                     meta; block, of placement groups it is a member of and epochs they have reached
//	Report                    gateway, block
//	Hint                      meta
//	Delete                    nobody, unless Options.MayDelete says so
//
// A block node reads and fences to repair. Who is a member is decided by the cluster map that Options.Upkeep has.
// Reports and hints only make the store look for itself, sooner than it would anyway.
package server
