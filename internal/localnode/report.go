package localnode

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// reportEvery is how often it is looked whether the cluster should hear what the volumes are, reportTimeout bounds that.
	reportEvery   = 2 * time.Second
	reportTimeout = 10 * time.Second
	// stale is how old what the cluster knows of free space may get if it has changed noticeably: by one part in noticeable of the disk.
	stale      = time.Minute
	noticeable = 100
)

// Report keeps what the node's record says of its volumes true, until Stop. record is the node's record as it is now, nil while it is not
// known or cannot say it; told is called when it was changed.
func (s *Server) Report(meta filesystem.Meta, record func(context.Context) (*metapb.Node, error), told func(context.Context) error) {
	s.done.Go(func() { s.reports(s.run, meta, record, told) })
}

func (s *Server) reports(ctx context.Context, meta filesystem.Meta, record func(context.Context) (*metapb.Node, error), told func(context.Context) error) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	failing := false
	for {
		try, cancel := context.WithTimeout(ctx, reportTimeout)
		err := s.report(try, meta, record, told)
		cancel()
		if (err != nil) != failing && ctx.Err() == nil {
			if failing = err != nil; failing {
				s.log.Warn("the cluster is not told what the local volumes are; it is tried again", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Server) report(ctx context.Context, meta filesystem.Meta, record func(context.Context) (*metapb.Node, error), told func(context.Context) error) error {
	old, err := record(ctx)
	if err != nil || old == nil {
		return err
	}
	now := time.Now()
	state := s.State(ctx, now)
	if !worthTelling(old.LocalVolumes, state, now) {
		return nil
	}
	rec := old.CloneVT()
	rec.Version++
	rec.LocalVolumes = state
	_, err = meta.Apply(ctx, 0, &metapb.Command{Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: rec}}})
	if err != nil && vfs.KindOf(err) != vfs.KindChanged {
		return err
	}
	return told(ctx)
}

// worthTelling reports whether the cluster should hear of a change: at once of which volumes there are and what ails them, of space
// now and then.
func worthTelling(told, now []*metapb.LocalVolume, at time.Time) bool {
	if len(told) != len(now) {
		return true
	}
	for i, v := range now {
		t := told[i]
		if t.Fs != v.Fs || t.Problem != v.Problem || t.Total != v.Total {
			return true
		}
		if d := max(t.Free, v.Free) - min(t.Free, v.Free); d > v.Total/noticeable && at.Unix()-t.At.GetSec() >= int64(stale/time.Second) {
			return true
		}
	}
	return false
}
