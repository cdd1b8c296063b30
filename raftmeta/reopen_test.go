package raftmeta

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
)

// badDisk is the disk of one node. While it fails, operations that fail says do.
type badDisk struct {
	mu   sync.Mutex // guards the fields below
	fail func(vfile.Call) *vfile.Fault
	hits int
}

// set makes the disk fail from now on as fn says; nil: it works.
func (d *badDisk) set(fn func(vfile.Call) *vfile.Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail, d.hits = fn, 0
}

func (d *badDisk) plan(c vfile.Call) *vfile.Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		return nil
	}
	f := d.fail(c)
	if f != nil {
		d.hits++
	}
	return f
}

func (d *badDisk) failures() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hits
}

// once fails the first operation of a kind on a file whose path contains part; keep as in vfile.Fault.
func once(op vfile.Op, part string, keep int64) func(vfile.Call) *vfile.Fault {
	done := false
	return func(c vfile.Call) *vfile.Fault {
		if done || c.Op != op || !strings.Contains(c.Name, part) {
			return nil
		}
		done = true
		return &vfile.Fault{Err: syscall.EIO, Keep: keep}
	}
}

// The stable store and the directory of the state, as the disk sees them.
const (
	stableName = "stable.db"
	stateName  = "/state/"
)

// badStable is a stable store on a bad disk: saving fails before or, with Keep, after it was done.
type badStable struct {
	raft.StableStore
	d *badDisk
}

func (s badStable) Set(key, val []byte) error {
	f := s.d.plan(vfile.Call{Op: vfile.OpWrite, Name: stableName})
	if f == nil {
		return s.StableStore.Set(key, val)
	}
	if f.Keep != 0 {
		if err := s.StableStore.Set(key, val); err != nil {
			return err
		}
	}
	return f.Err
}

// pebble is Pebble's view of the disk.
func (d *badDisk) pebble() pvfs.FS {
	return errorfs.Wrap(pvfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		c := vfile.Call{Name: op.Path}
		switch op.Kind {
		case errorfs.OpFileWrite, errorfs.OpFileWriteAt:
			c.Op = vfile.OpWrite
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			c.Op = vfile.OpSync
		case errorfs.OpCreate:
			c.Op = vfile.OpCreate
		default:
			return nil
		}
		if f := d.plan(c); f != nil {
			return f.Err
		}
		return nil
	}))
}

// badDisks is a cluster whose nodes have disks that can fail, and replace lost replicas.
func badDisks(t *testing.T, log Backend, opt func(o *Options)) (*cluster, []*badDisk) {
	disks := []*badDisk{{}, {}, {}}
	c := newClusterLog(t, 3, []uint16{1}, log, func(i int, o *Options) {
		keepers(i, o)
		o.Log, o.TrailingLogs = log, 10_000
		o.files, o.pebbleFS = vfile.NewFaults(vfile.OS{}, disks[i].plan), disks[i].pebble()
		o.wrapStable = func(s raft.StableStore) raft.StableStore { return badStable{s, disks[i]} }
		if opt != nil {
			opt(o)
		}
	})
	return c, disks
}

// again waits until node i was told of a failure and votes, with replica id, without a restart.
func (c *cluster) again(i int, d *badDisk, id string, w *creators) {
	c.t.Helper()
	s := c.server(i)
	c.eventually("the disk to fail", func() bool { return d.failures() > 0 })
	c.eventually(fmt.Sprintf("%s to vote again", id), func() bool {
		st, ok := c.status(i, 1)
		return ok && st.Replica == id && st.Member == Voter && st.Keeping == "" && st.Err == "" && st.LeaderNode != ""
	})
	d.set(nil)
	if c.server(i) != s {
		c.t.Fatal("the server was restarted")
	}
	if aside := c.aside(i); len(aside) != 0 {
		c.t.Fatalf("it was replaced: %q", aside)
	}
	c.needed(i, w)
}

// A voter whose disk fails once, wherever in the log, the tail or the vote that is, opens its replica again by itself, has all that it
// acknowledged, and its vote counts. It is the same replica, in the same process.
func TestFailedVoterIsOpenedAgain(t *testing.T) {
	type failure struct {
		name string
		at   func(vfile.Call) *vfile.Fault
	}
	for log, failures := range map[Backend][]failure{
		WAL: {
			{"a write of the log", once(vfile.OpWrite, ".wal", 0)},
			{"a part of a write of the log", once(vfile.OpWrite, ".wal", 100)},
			{"a sync of the log", once(vfile.OpSyncData, ".wal", 0)},
			{"a sync of the log, in its report only", once(vfile.OpSyncData, ".wal", 1)},
			{"the making of a segment", once(vfile.OpCreate, ".wal", 0)},
			{"a write of the tail", once(vfile.OpWrite, "/tail", 0)},
			{"a write of the tail, in its report only", once(vfile.OpWrite, "/tail", 12)},
		},
		Bolt: {
			{"a write of the tail", once(vfile.OpWrite, "/tail", 0)},
		},
	} {
		t.Run(string(log), func(t *testing.T) {
			c, disks := badDisks(t, log, nil)
			cl := c.gateway(1, "gw")
			w := (&creators{t: t, cl: cl, shard: 1, long: true}).start(4)
			for n, f := range failures {
				w.more(20)
				victim := (c.leader(1) + n) % 3 // the leader, a follower, the other one
				id := c.replicaOf(victim)
				t.Logf("%s fails at %s", f.name, id)
				disks[victim].set(f.at)
				c.again(victim, disks[victim], id, w)
				// A failure soon after another one would be taken for a disk that is broken.
				c.stop(victim)
				c.start(victim)
			}
			acked := w.end()
			c.sameState(1)
			checkFiles(t, cl, 1, acked)
		})
	}
}

// A vote, or a term, that cannot be saved is not given; the replica is opened again and knows whether it gave it.
func TestVoteThatIsNotSaved(t *testing.T) {
	for _, keep := range []int64{0, 1} { // not saved; saved, and the report failed
		c, disks := badDisks(t, WAL, nil)
		cl := c.gateway(1, "gw")
		w := startCreators(t, cl, 1, 4)
		w.more(20)
		lead := c.leader(1)
		victim := (lead + 1) % 3
		id := c.replicaOf(victim)
		disks[victim].set(once(vfile.OpWrite, stableName, keep))
		c.stop(lead) // there is an election
		c.eventually("the vote to fail", func() bool { return disks[victim].failures() > 0 })
		c.start(lead)
		c.again(victim, disks[victim], id, w)
		acked := w.end()
		c.sameState(1)
		checkFiles(t, cl, 1, acked)
		c.close()
	}
}

// Acknowledged entries that are not there when a failed log is opened again are damage: the replica does not vote, a new one takes its place.
func TestReopenedLogLacksEntries(t *testing.T) {
	c, disks := badDisks(t, WAL, nil)
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 2)
	w.more(100)
	victim := (c.leader(1) + 1) % 3
	id := c.replicaOf(victim)
	disk := disks[victim]
	failed := false
	disk.set(func(call vfile.Call) *vfile.Fault {
		if !strings.Contains(call.Name, ".wal") {
			return nil
		}
		if !failed && call.Op == vfile.OpSyncData {
			failed = true
			return &vfile.Fault{Err: syscall.EIO}
		}
		if failed && call.Op == vfile.OpOpen { // what was in the cache, and acknowledged, is gone
			failed = false
			disk.fail = nil // the caller holds its mutex
			c.flip(victim, "wal/*.wal", 0.9)
		}
		return nil
	})
	c.votes(victim, id)
	if aside := c.aside(victim); len(aside) != 1 {
		t.Errorf("set aside: %q", aside)
	}
	c.needed(victim, w)
	acked := w.end()
	c.sameState(1)
	checkFiles(t, cl, 1, acked)
}

// A disk that fails again after the replica was opened again is not trusted: a new replica takes its place.
func TestVoterThatFailsTwiceIsReplaced(t *testing.T) {
	c, disks := badDisks(t, WAL, nil)
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 4)
	w.more(20)
	victim := (c.leader(1) + 1) % 3
	id := c.replicaOf(victim)
	disks[victim].set(func(call vfile.Call) *vfile.Fault {
		if call.Op == vfile.OpSyncData && strings.Contains(call.Name, ".wal") && !strings.Contains(call.Name, ".tmp") {
			if _, err := os.Stat(filepath.Join(c.path(victim), "shard-00001")); err == nil && len(asideOf(c.path(victim))) == 0 {
				return &vfile.Fault{Err: syscall.EIO}
			}
		}
		return nil
	})
	c.votes(victim, id)
	if n := disks[victim].failures(); n < 2 {
		t.Errorf("it was replaced after %d failures", n)
	}
	if aside := c.aside(victim); len(aside) != 1 {
		t.Errorf("set aside: %q", aside)
	}
	c.needed(victim, w)
	acked := w.end()
	c.sameState(1)
	checkFiles(t, cl, 1, acked)
}

func asideOf(dir string) []string {
	names, _ := filepath.Glob(filepath.Join(dir, "*.damaged-*"))
	return names
}

// On a dead disk nothing helps: the replica stays away, its node says so, the others serve, and when the disk works again it is back.
func TestDeadDisk(t *testing.T) {
	for _, leads := range []bool{false, true} {
		c, disks := badDisks(t, WAL, nil)
		cl := c.gateway(1, "gw")
		w := startCreators(t, cl, 1, 4)
		w.more(20)
		victim := c.leader(1)
		if !leads {
			victim = (victim + 1) % 3
		}
		disks[victim].set(func(call vfile.Call) *vfile.Fault {
			switch call.Op {
			case vfile.OpRead, vfile.OpSize, vfile.OpList:
				return nil
			}
			return &vfile.Fault{Err: syscall.EIO}
		})
		c.eventually("the replica to be given up for now", func() bool {
			st, ok := c.status(victim, 1)
			return ok && st.Member == Lost && strings.Contains(st.Err, syscall.EIO.Error()) && strings.Contains(st.Keeping, "did not help")
		})
		w.more(100)
		time.Sleep(3 * keeperPause) // a replica that came back would be missed, never invented
		if st, _ := c.status(victim, 1); st.Member != Lost {
			t.Fatalf("it runs on a dead disk: %+v", st)
		}
		// Nor does a restart, which leaves the node's other shards alone.
		disks[victim].set(func(call vfile.Call) *vfile.Fault {
			if !strings.Contains(call.Name, "shard-00001") {
				return nil
			}
			return &vfile.Fault{Err: syscall.EIO}
		})
		c.stop(victim)
		c.start(victim)
		if st, _ := c.status(victim, 1); st.Member != Lost || !strings.Contains(st.Err, syscall.EIO.Error()) {
			t.Fatalf("started on a dead disk: %+v", st)
		}
		w.more(20)
		disks[victim].set(nil)
		c.votes(victim, "")
		c.needed(victim, w)
		acked := w.end()
		c.sameState(1)
		checkFiles(t, cl, 1, acked)
		c.close()
	}
}

// stateFails is set for a process in which a store is abandoned: Pebble's goroutines stay.
const stateFails = "RACKFS_TEST_STATE_FAILS"

// A state that cannot be written, be it a table, its sync or the manifest, at which Pebble would end the process, stops that replica alone. It is opened again, with
// a state made of the newest snapshot and the log.
func TestStateThatCannotBeWritten(t *testing.T) {
	if os.Getenv(stateFails) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestStateThatCannotBeWritten$", "-test.v")
		cmd.Env = append(os.Environ(), stateFails+"=1")
		out, err := cmd.CombinedOutput()
		// The test passes; the check for goroutines that are left over fails afterwards.
		if !strings.Contains(string(out), "--- PASS: TestStateThatCannotBeWritten") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	c, disks := badDisks(t, WAL, func(o *Options) { o.MemTableBytes = 1 << 20 })
	cl := c.gateway(1, "gw")
	w := (&creators{t: t, cl: cl, shard: 1, long: true}).start(4)
	for n, f := range []func(vfile.Call) *vfile.Fault{
		once(vfile.OpWrite, ".sst", 0), once(vfile.OpSync, ".sst", 0), once(vfile.OpCreate, ".sst", 0),
		once(vfile.OpWrite, "MANIFEST", 0), once(vfile.OpSync, "MANIFEST", 0),
	} {
		w.more(20)
		victim := (c.leader(1) + n) % 3
		id := c.replicaOf(victim)
		before := c.store(victim)
		disks[victim].set(func(call vfile.Call) *vfile.Fault {
			if !strings.Contains(call.Name, stateName) {
				return nil
			}
			return f(call)
		})
		s := c.server(victim)
		if n > 0 { // else the replica's own flush, when it has enough in memory
			go func() { _ = s.Snapshot(1) }()
		}
		c.again(victim, disks[victim], id, w)
		if after := c.store(victim); after == before {
			t.Errorf("failure %d: the store %s that could not be written is in use again", n, before)
		}
		c.stop(victim)
		c.start(victim)
	}
	acked := w.end()
	c.sameState(1)
	checkFiles(t, cl, 1, acked)
}

// store is the name of the live store of node i.
func (c *cluster) store(i int) string {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.path(i), "shard-00001", "state", "CURRENT"))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}
