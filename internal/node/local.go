package node

import (
	"context"
	"errors"
	"syscall"

	"github.com/rackfs/rackfs/internal/localnode"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// startLocal serves the volumes that this node served last. It needs nobody else.
func (n *Node) startLocal(ctx context.Context) (err error) {
	squash := export.SquashNone
	if n.cfg.RootSquash {
		squash = export.SquashRoot
	}
	n.localVolumes, err = localnode.Start(ctx, localnode.Config{
		Dir: n.cfg.LocalDir, Node: n.cfg.Name, Cluster: [16]byte(n.dir.state.Settings.ID()), Clients: n.cfg.LocalClients,
		Group: n.knownGroup, List: localnode.ListFrom(n.meta), Squash: squash, LazyNames: n.cfg.LocalLazy, Lease: n.cfg.Lease, Release: n.opt.Release, Logger: n.log,
	})
	ln := n.listeners[listenLocal]
	if err != nil && diskFails(err) {
		// Whoever fills a disk of local volumes must not end the metadata and the stores of the same node.
		n.noVolumes = err
		n.log.Error("local volumes are not served: make room on the disk of local.dir, or look after it, and start the node again", "dir", n.cfg.LocalDir, "err", err)
		return ln.Close()
	}
	if err != nil {
		return err
	}
	n.serving.Go(func() {
		if err := n.localVolumes.Serve(ln); err != nil {
			n.failed <- vfs.Wrap("serve local volumes", err)
		}
	})
	return nil
}

// diskFails reports whether err is of a disk that takes no writes, and not of how the node is set up.
func diskFails(err error) bool {
	switch vfs.KindOf(err) {
	case vfs.KindNoSpace, vfs.KindQuota, vfs.KindReadOnly:
		return true
	}
	return errors.Is(err, syscall.EIO)
}

// knownGroup is the node group that shard 0 says this node is in, if this process has heard it.
func (n *Node) knownGroup() (string, bool) {
	for _, r := range n.directory.records() {
		if r.Name == n.cfg.Name {
			return r.Group, true
		}
	}
	return "", false
}

// ownRecord is this node's record, nil if it is not known or is of a cluster older than local volumes.
func (n *Node) ownRecord(context.Context) (*metapb.Node, error) {
	for _, r := range n.directory.records() {
		if r.Name == n.cfg.Name && r.Local != "" {
			return r, nil
		}
	}
	return nil, nil
}
