package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/internal/provision"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta"
)

// Guardian is what goes with a voter: the manager of stores and placement groups and the reconciler of file systems (those of the leader of
// shard 0 work), and who tells stores of the blocks that died at this voter's shards.
type Guardian struct {
	*nodegroup.Manager
	Hinter      *nodegroup.Hinter
	fileSystems *filesystem.Reconciler
	stop        context.CancelFunc
	done        sync.WaitGroup
}

// GuardianOptions configure a Guardian.
type GuardianOptions struct {
	Server      *raftmeta.Server
	Meta        *raftmeta.Client
	Security    func(node string) wire.Security // of connections to block servers
	RetireEvery time.Duration                   // 0: the default
	Timing      nodegroup.Timing                // zero: the default
	ProbeEvery  time.Duration                   // 0: the default
	Logger      *slog.Logger
}

// StartGuardian runs it until Close.
func StartGuardian(ctx context.Context, o GuardianOptions) *Guardian {
	connect := func(node, addr string) nodegroup.Conn {
		return wire.NewClient(wire.Dialer("tcp", addr), wire.ClientOptions{Security: o.Security(node), Logger: o.Logger})
	}
	leads := func() bool { return Leads(o.Server, provision.ClusterShard) }
	g := &Guardian{
		Manager: nodegroup.New(nodegroup.Options{
			Leads: leads, Meta: o.Meta,
			Connect: connect, RetireEvery: o.RetireEvery, Timing: o.Timing, ProbeEvery: o.ProbeEvery, Logger: o.Logger,
		}),
		Hinter:      nodegroup.NewHinter(nodegroup.HinterOptions{Meta: o.Meta, Connect: connect, Logger: o.Logger}),
		fileSystems: filesystem.New(filesystem.Options{Leads: leads, Meta: o.Meta, Logger: o.Logger}),
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.stop = stop
	g.done.Go(func() { g.Run(run) })
	g.done.Go(func() { g.Hinter.Run(run) })
	g.done.Go(func() { g.fileSystems.Run(run) })
	return g
}

// Leads reports whether a server's replica of a shard leads it and serves.
func Leads(s *raftmeta.Server, shard uint16) bool {
	for _, st := range s.Status() {
		if st.Shard == shard {
			return st.Serving
		}
	}
	return false
}

// Close ends it.
func (g *Guardian) Close() {
	g.stop()
	g.done.Wait()
}
