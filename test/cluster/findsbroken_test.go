//go:build linux

package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// mutantVariable chooses what is wrong with the program that TestFindsBrokenGateways builds.
const mutantVariable = "RACKFS_TEST_MUTANT"

// mutant is a program that breaks a promise: in one place of its source something is replaced.
type mutant struct {
	name     string
	file     string
	was, now string                              // of its source; now has wrong for the expression that is true in this mutant only
	faults   func(*fleet, *lane, *work) *trouble // that it takes; nil: any
	sharing  bool                                // what shows it is rare: the histories do little else than use a file that is written through
}

// mutants are those that the clients of TestThousandFaults have to find. What each does is the opposite of what several gateways are built on.
var mutants = []mutant{
	{
		name: "a gateway gives a file back without what is buffered of it", file: "volume/through.go",
		was: "	var told error // of a loss",
		now: "	if wrong {\n		e.mu.Lock()\n		v.dropDirty(e, nil)\n		e.mu.Unlock()\n	}\n	var told error // of a loss",
	},
	{
		name: "who has no lease reads what it knows, without asking whether that is still true", file: "volume/read.go",
		was: "		if a.Change == at && a.Type == vfs.TypeFile {",
		now: "		if (a.Change == at || wrong) && a.Type == vfs.TypeFile {",
	},
	{
		name: "a file that one gateway has to itself is changed by another one", file: "raftmeta/fsm/lease.go",
		was: "	if x.level < levelGateways || !x.elsewhere(n) {",
		now: "	if wrong || x.level < levelGateways || !x.elsewhere(n) {",
	},
	{
		name: "a change that is sent again is done again", file: "raftmeta/fsm/replies.go",
		was: "	if c.Call == nil || m.level < levelPOSIX",
		now: "	if wrong || c.Call == nil || m.level < levelPOSIX", faults: (*fleet).diesUnnoticed,
	},
	{
		name: "COMMIT is answered before the bytes are stable", file: "volume/write.go",
		was: "	if err := v.sync(ctx, e, span{off, end}, seq, anyLosses, op); err != nil {",
		now: "	if wrong {\n	} else if err := v.sync(ctx, e, span{off, end}, seq, anyLosses, op); err != nil {",
	},
	{
		name: "a gateway answers from what it knows after its lease", file: "internal/gateway/lease.go",
		was: "	return raftmeta.Valid(leases...)\n",
		now: "	return wrong || raftmeta.Valid(leases...)\n", faults: (*fleet).standsStill,
	},
	{
		name: "a WRITE whose gateway ended is done again, whatever was written since", file: "volume/calls.go",
		was: "	if !v.cfg.Keep {\n		return nil\n	}\n	return vfs.CallOf(ctx)",
		now: "	if wrong || !v.cfg.Keep {\n		return nil\n	}\n	return vfs.CallOf(ctx)", faults: (*fleet).diesUnnoticed, sharing: true,
	},
	{
		name: "the reply of a WRITE is not kept", file: "nfsserver/v4/compound.go",
		was: "	c.call.Changes = true\n",
		now: "	c.call.Changes = !wrong || def != &opTable[nfsv4.OP_WRITE]\n", faults: (*fleet).losesReplies, sharing: true,
	},
}

const (
	// Faults that may happen before one shows that gateways built so are wrong. Most show it before the first.
	enoughFaults = 60
	// overLease is how much longer than its lease a gateway stands still: so long the others have what it had.
	overLease = 3 * time.Second
	// gatherOps are calls that are answered before such a fault.
	gatherOps = 100
)

// buildMutants builds a program that is any of them, as mutantVariable says.
func buildMutants(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string][]byte{}
	for _, m := range mutants {
		path := filepath.Join(root, m.file)
		src := sources[path]
		if src == nil {
			if src, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(src, []byte("\n\t\"os\"\n")) {
				src = bytes.Replace(src, []byte("import (\n"), []byte("import (\n\t\"os\"\n"), 1)
			}
		}
		if bytes.Count(src, []byte(m.was)) != 1 {
			t.Fatalf("%s has changed: adapt what this test replaces for %q", m.file, m.name)
		}
		now := bytes.ReplaceAll([]byte(m.now), []byte("wrong"), fmt.Appendf(nil, "(os.Getenv(%q) == %q)", mutantVariable, m.name))
		sources[path] = bytes.Replace(src, []byte(m.was), now, 1)
	}
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	replace := map[string]string{}
	for i, path := range slices.Sorted(maps.Keys(sources)) {
		replace[path] = write(fmt.Sprintf("%d.go", i), sources[path])
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "rackfs")
	build := exec.Command("go", "build", "-overlay", write("overlay.json", overlay), "-o", program, "./cmd/rackfs")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build mutants: %v\n%s", err, out)
	}
	return program
}

// TestFindsBrokenGateways shows that what TestThousandFaults does can find something.
func TestFindsBrokenGateways(t *testing.T) {
	if !long {
		t.Skip("builds the program a second time, and takes two minutes: runs with RACKFS_TEST_LONG=1")
	}
	program := buildMutants(t)
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			f := newFleet(t, program, mutantVariable+"="+m.name)
			began := time.Now()
			w, hs := f.use(1)
			hs.sharing.Store(m.sharing)
			gates, stores := f.lanes(1)
			if m.faults != nil {
				gates.choose = func() *trouble { return m.faults(f, gates, w) }
				stores.choose = func() *trouble { return nil }
			}
			found := f.happen(gates, stores, enoughFaults, w, hs)
			if found == nil {
				t.Fatalf("%d faults without a violation: the test shows nothing", enoughFaults)
			}
			t.Logf("found after %d faults, %d calls, %v: %v", gates.done+stores.done, w.ops.Load(), time.Since(began).Round(100*time.Millisecond), found)
		})
	}
}

// gather has the clients that a balancer sends to gateways come to one of those that are nothing else, and work there.
func (f *fleet) gather(l *lane, w *work) *machine {
	only := slices.DeleteFunc(slices.Clone(f.gateways), func(m *machine) bool { return slices.Contains(f.stores, m) })
	m := only[l.r.IntN(len(only))]
	for _, c := range f.roamers {
		if c.address == "" && !c.stays && c.at.Load() != m {
			c.to(m)
		}
	}
	target := w.ops.Load() + gatherOps
	m.await("clients work at it", func() (bool, string) {
		return w.ops.Load() >= target || w.failed() != nil, fmt.Sprint(w.ops.Load())
	})
	return m
}

// standsStill pauses a gateway until others have what it had, while its clients are sent to others.
func (f *fleet) standsStill(l *lane, w *work) *trouble {
	x := paused(f.gather(l, w), fleetLease+overLease)
	x.away = true
	return x
}

// diesUnnoticed kills a gateway that has done what clients were not told.
func (f *fleet) diesUnnoticed(l *lane, w *work) *trouble {
	return f.unnoticed(killed(f.gather(l, w), 0))
}

// losesReplies loses what a gateway has answered for a while, until its clients connect anew, some of them to others.
func (f *fleet) losesReplies(l *lane, w *work) *trouble {
	x := f.unheard(f.gather(l, w), overLease)
	x.away = true
	return x
}
