package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/budget"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/server"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/blockstore/upkeep"
	"github.com/rackfs/rackfs/internal/provision"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// admitTries bounds how often another node may be faster in taking an id.
	admitTries = 64
)

// EmptyDisk reports whether the directory of a store is gone or holds nothing but what a new file system, or a store that was not made
// completely, has. A link that leads nowhere is not that: the disk it leads to is not mounted.
func EmptyDisk(dir string) (bool, error) {
	const op = "open store"
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Lstat(dir); err == nil {
			return false, vfs.Errorf(vfs.KindUnavailable, op, "%s is a link that leads nowhere; is its disk mounted?", dir)
		}
		return true, nil
	}
	if err != nil {
		return false, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "LOCK", "lost+found", "SUPERBLOCK.tmp":
		case "segments":
			if inside, err := os.ReadDir(filepath.Join(dir, "segments")); err != nil || len(inside) > 0 {
				return false, err // the store says what is wrong
			}
		default:
			return false, nil
		}
	}
	return true, nil
}

// disk is one directory with a store.
type disk struct {
	path  string
	was   uint32 // the store that was here last; 0: none yet
	store *store.Store
	nodegroup.Admission
	keeper atomic.Pointer[upkeep.Keeper]
	err    error // why it does not run
}

// openDisks opens the stores of all disks that can be opened, and makes those that never were.
func (n *Node) openDisks(ctx context.Context) error {
	const op = "open disk"
	known := map[string]uint32{}
	if _, err := n.dir.loadJSON(disksFile, &known); err != nil {
		return err
	}
	n.knownDisks = maps.Clone(known)
	for i, path := range n.opt.ReplaceDisks {
		n.opt.ReplaceDisks[i] = filepath.Clean(path)
		if !slices.Contains(n.cfg.Disks, n.opt.ReplaceDisks[i]) {
			return vfs.Errorf(vfs.KindInvalid, op, "--replace-disk %s: it is not in block.disks", path)
		}
	}
	running := 0
	for _, path := range n.cfg.Disks {
		d := &disk{path: path, was: known[path]}
		n.disks = append(n.disks, d)
		if d.err = n.openDisk(ctx, d); d.err != nil {
			d.store = nil
			n.log.Error("a disk does not run; its shards are reconstructed from the others", "disk", path, "err", d.err)
			continue
		}
		running++
	}
	if running == 0 {
		var errs []error
		for _, d := range n.disks {
			errs = append(errs, fmt.Errorf("%s: %w", d.path, d.err))
		}
		return vfs.Errorf(vfs.KindUnavailable, op, "no disk of this node runs: %w", errors.Join(errs...))
	}
	return nil
}

func (n *Node) openDisk(ctx context.Context, d *disk) error {
	empty, err := EmptyDisk(d.path)
	if err != nil {
		return err
	}
	if empty && d.was != 0 && !slices.Contains(n.opt.ReplaceDisks, d.path) {
		return vfs.Errorf(vfs.KindUnavailable, "open disk", "%s held store %d and is empty now: mount the disk, or, if it is lost, start the node once with --replace-disk %s", d.path, d.was, d.path)
	}
	if empty {
		if err := vfile.MkdirAllSync(vfile.OS{}, d.path); err != nil {
			return vfs.Errorf(vfs.KindOf(err), "open disk", "%w", err)
		}
	}
	var incarnation uint64
	if empty {
		err := n.patiently(ctx, "make a store in "+d.path, func(ctx context.Context) (err error) {
			incarnation, err = provision.Incarnation(ctx, n.meta)
			return err
		})
		if err != nil {
			return err
		}
	}
	d.store, err = store.Open(ctx, store.Options{
		Dir: d.path, Cluster: segment.ID(n.dir.state.Settings.ID()), Create: empty,
		MetadataIncarnation: incarnation, SegmentSize: n.cfg.Segment, IndexCache: n.indexCache, Logger: n.log.With("disk", d.path),
		OnBad:   d.bad,
		Budget:  budget.New(n.cfg.Budget),
		Metrics: store.NewMetrics(n.reg, prometheus.Labels{"node": n.cfg.Name, "disk": d.path}),
	})
	return err
}

// bad is told of shards that fail their checks. Those of before the Keeper began it finds missing.
func (d *disk) bad(key segment.Key, _ error) {
	if k := d.keeper.Load(); k != nil {
		k.Report([]segment.Key{key})
	}
}

// admitDisks finds out which store each disk is, records them and begins to serve. What others' being away prevents is tried
// again; a disk that the cluster refuses does not run.
func (n *Node) admitDisks(ctx context.Context) error {
	stores := map[uint32]*store.Store{}
	for _, d := range n.disks {
		if d.store == nil {
			continue
		}
		d.err = n.patiently(ctx, "record disk "+d.path, func(ctx context.Context) error { return n.admitDisk(ctx, d) })
		if ctx.Err() != nil {
			return d.err
		}
		if d.err != nil {
			n.log.Error("a disk is not admitted; its shards are reconstructed from the others", "disk", d.path, "err", d.err)
			d.err = errors.Join(d.err, d.store.Close())
			d.store = nil
			continue
		}
		stores[d.ID] = d.store
	}
	if len(stores) == 0 {
		return vfs.Errorf(vfs.KindUnavailable, "admit disks", "no disk of this node is admitted: %w", n.disks[0].err)
	}
	h := server.New(stores, server.Options{Logger: n.log, Upkeep: n.upkeepOf})
	n.blockServer = wire.NewServer(h.Handle, wire.ServerOptions{Security: wire.Security{Mode: n.dataMode(), TLS: n.id.ServerTLS()}, Logger: n.log})
	ln := n.listeners[listenBlock]
	n.serving.Go(func() {
		if err := n.blockServer.Serve(ln); err != nil {
			n.log.Debug("the block server ended", "err", err)
		}
	})
	for _, d := range n.disks {
		if d.store != nil {
			if err := n.startKeeper(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// admitDisk records one disk. Its id may be taken by another node meanwhile; then the next one is tried.
func (n *Node) admitDisk(ctx context.Context, d *disk) error {
	for try := 1; ; try++ {
		m, err := provision.ClusterMap(ctx, n.meta)
		if err != nil {
			return err
		}
		info, was := d.store.Info(), d.was
		if n.runsElsewhere(m, d) { // the disks changed places: who takes this place takes nobody's
			was = 0
		}
		if d.Admission, err = nodegroup.AdmitDisk(m, n.cfg.Name, info.Store[:], info.Used == 0, was); err != nil {
			return vfs.Errorf(vfs.KindIncompatible, "admit disk", "%s: %w", d.path, err) // not now, also if it says "unavailable"
		}
		record := &metapb.Store{
			Id: d.ID, Node: n.cfg.Name, Address: n.cfg.advertised(RoleBlock, n.cfg.BlockListen), Rack: n.cfg.Rack, Zone: n.cfg.Zone,
			Uuid: info.Store[:], Capacity: n.part(d), State: d.Record.GetState(),
		}
		cmd := &metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: record}}}
		if d.Replaces != 0 {
			cmd = &metapb.Command{Op: &metapb.Command_ReplaceStore{ReplaceStore: &metapb.ReplaceStore{Old: d.Replaces, New: record, ExpectMapVersion: d.Version}}}
		}
		if _, err = n.meta.Apply(ctx, clusterShard, cmd); vfs.KindOf(err) == vfs.KindExists || vfs.KindOf(err) == vfs.KindPerm {
			if try < admitTries && d.Record == nil {
				continue // somebody was faster
			}
		}
		if err != nil {
			return err
		}
		if d.Replaces != 0 {
			n.log.Warn("a lost disk is replaced by a new one, which is being filled from the others", "disk", d.path, "lost", d.Replaces, "store", d.ID)
		}
		break
	}
	return n.remember(d)
}

// runsElsewhere reports whether the store that was at the place of d last is on another disk of this node now.
func (n *Node) runsElsewhere(m *metapb.ClusterMapR, d *disk) bool {
	i := slices.IndexFunc(m.GetStores(), func(s *metapb.Store) bool { return d.was != 0 && s.Id == d.was })
	return i >= 0 && slices.ContainsFunc(n.disks, func(x *disk) bool {
		if x == d || x.store == nil {
			return false
		}
		info := x.store.Info()
		return bytes.Equal(info.Store[:], m.GetStores()[i].Uuid)
	})
}

// remember writes down where the store of d is. A disk that the cluster knew runs also if that cannot be written now, such as on a data directory that is full: it
// would tell again which store it is.
func (n *Node) remember(d *disk) error {
	d.was = d.ID
	known := map[string]uint32{}
	for _, x := range n.disks {
		if x.was != 0 {
			known[x.path] = x.was
		}
	}
	if maps.Equal(known, n.knownDisks) {
		return nil
	}
	err := n.dir.saveJSON(disksFile, known)
	if err == nil {
		n.knownDisks = known
	}
	if err != nil && d.Record != nil {
		n.log.Warn("where the disks are cannot be written down: see to the data directory", "disk", d.path, "err", err)
		return nil
	}
	return err
}

// part is how much a disk can hold, of a device that several stores of this node are on its part: placement weighs stores by it.
func (n *Node) part(d *disk) uint64 {
	var rooms []blockstore.RoomReply
	at := 0
	for _, x := range n.disks {
		if x.store == nil {
			continue
		}
		if x == d {
			at = len(rooms)
		}
		i := x.store.Info()
		rooms = append(rooms, i.Room())
	}
	return blockstore.Parts(rooms)[at]
}

func (n *Node) startKeeper(d *disk) error {
	k, err := upkeep.New(upkeep.Options{
		Store: d.store, ID: d.ID, Meta: n.meta,
		Dial: func(node, address string) upkeep.Conn {
			return wire.NewClient(wire.Dialer("tcp", address), wire.ClientOptions{Security: n.blockSecurity(node), Logger: n.log})
		},
		Scrub: upkeep.ScrubOf(d.store), Budget: d.store.Budget(), MapInterval: n.cfg.MapEvery, Retry: n.cfg.RetryAfter, CollectInterval: n.cfg.CollectEvery, Leader: n.meta, Logger: n.log.With("disk", d.path), Metrics: upkeep.NewMetrics(n.reg, prometheus.Labels{"node": n.cfg.Name, "disk": d.path}),
	})
	if err != nil {
		return err
	}
	d.keeper.Store(k)
	k.Start()
	return nil
}

// upkeepOf is what the block server tells its peers' calls to.
func (n *Node) upkeepOf(id uint32) server.Upkeep {
	for _, d := range n.disks {
		if d.ID == id && d.store != nil {
			if k := d.keeper.Load(); k != nil {
				return k
			}
		}
	}
	return nil
}

// closeKeepers ends the disks' background work.
func (n *Node) closeKeepers() {
	for _, d := range n.disks {
		if k := d.keeper.Load(); k != nil {
			k.Close()
		}
	}
}

func (n *Node) closeDisks() error {
	var errs []error
	for _, d := range n.disks {
		if d.store != nil {
			errs = append(errs, d.store.Close())
		}
	}
	return errors.Join(errs...)
}
