// Package mount plans the mount of an export by the kernel's NFS client: from which server, with which options; as a command, a line of fstab
// or a systemd unit. It also says what a machine lacks for it. Planning is pure; [Host] is what looks at a machine and changes it.
//
// # The server
//
// One on this machine if there is one, for then nothing crosses the network; else one of the nearest (same rack, same zone, anywhere), chosen at
// random so that clients spread.
//
// # The options
//
//	vers=4.2          4.1 on kernels before 4.0, whose 4.2 is not finished
//	hard              a program waits for the server, however long that takes: an error would lose what it wrote
//	timeo=600,retrans=2   a minute until a request is sent again: on TCP that is only for a connection that died silently
//	nconnect=4        several connections to a server elsewhere, from kernel 5.3 on; on this machine one is enough
//	rsize,wsize       the largest transfer of the server, 1 MiB
//	_netdev,nofail    in fstab: not before the network is there, and a boot does not wait for the cluster
package mount
