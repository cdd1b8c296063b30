// Package server puts the stores of a node behind internal/wire. One Server
// serves all disks of the node; requests name the disk.
//
// Who may do what follows from the roles in the peer's certificate:
//
//	Put, Get          gateway
//	Stat, List, Info  gateway, meta, block
//	Fence             meta
//	Delete            nobody, unless Options.MayDelete says so
package server
