// Package cluster tests clusters of real `rackfs node` processes: begun, joined, used, killed and restarted by the commands that an operator
// has, with files read and written through NFS. Every node has an address of its own in 127/8, so that ports are the usual ones and clusters of
// several test processes do not meet.
package cluster
