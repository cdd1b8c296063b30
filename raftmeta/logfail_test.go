package raftmeta

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rackfs/rackfs/internal/vfile"
)

// brokenDisk fails the data syncs of its files while it is broken.
type brokenDisk struct {
	vfile.FS
	broken atomic.Bool
}

func (d *brokenDisk) Create(name string) (vfile.File, error) {
	f, err := d.FS.Create(name)
	return &brokenFile{f, d}, err
}

func (d *brokenDisk) Open(name string) (vfile.File, error) {
	f, err := d.FS.Open(name)
	return &brokenFile{f, d}, err
}

type brokenFile struct {
	vfile.File
	d *brokenDisk
}

func (f *brokenFile) SyncData() error {
	if f.d.broken.Load() {
		return syscall.EIO
	}
	return f.File.SyncData()
}

// A voter whose log fails stops and says why, be it the leader or a follower; the others go on, nothing
// that was acknowledged is lost, and it takes part again after a restart.
func TestLogFailureStopsTheReplica(t *testing.T) {
	disks := []*brokenDisk{{FS: vfile.OS{}}, {FS: vfile.OS{}}, {FS: vfile.OS{}}}
	c := newCluster(t, 3, []uint16{1}, func(i int, o *Options) { o.files = disks[i] })
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 4)
	for _, offset := range []int{0, 1} { // the leader, then a follower
		w.more(20)
		victim := (c.leader(1) + offset) % 3
		disks[victim].broken.Store(true)
		c.eventually("the replica to stop", func() bool {
			st, _ := c.status(victim, 1)
			return st.Role == "Shutdown" && !st.Serving && strings.Contains(st.Err, syscall.EIO.Error())
		})
		disks[victim].broken.Store(false)
		w.more(50)
		if st, _ := c.status(victim, 1); st.Role != "Shutdown" {
			t.Fatalf("it came back by itself: %+v", st)
		}
		c.stop(victim)
		c.start(victim)
	}
	w.more(20)
	acked := w.end()
	checkFiles(t, cl, 1, acked)
	c.sameState(1)
}
