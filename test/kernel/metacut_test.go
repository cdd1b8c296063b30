//go:build linux

package kernel

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/internal/kclient"
)

const metadataDeadline = 10 * time.Minute

// TestMetadataPowerCut is TestPowerCut for what a metadata server does rarely: take a snapshot and drop the log before it,
// begin a new segment of the log, send a snapshot to a voter and restore it there. The voters run alone, with
// limits so small that all of it happens all the time. After each power cut every one of them must start, not only a
// majority, and have everything that was acknowledged.
func TestMetadataPowerCut(t *testing.T) {
	kclient.Require(t, "mkfs.ext4", "e2fsck")
	t.Parallel()
	// Not on ext2 or without a journal: there a deletion that nobody needs durable may come back after its inodes and blocks
	// have new owners, and the repair of the disk then damages those.
	fs := diskFS{name: "ext4", kind: "ext4", mountOptions: "commit=300,noauto_da_alloc", rounds: 1, longRounds: 15}
	rounds := fs.rounds
	if long() {
		rounds = fs.longRounds
	}
	if os.Getenv(envServer) != "" {
		t.Skip("about our metadata server")
	}
	_, rng := newSeed(t)
	n := kclient.NewNet(t)
	host := t.TempDir()
	disk := filepath.Join(host, "disk")
	kclient.NewDisk(t, disk, fs.kind, 4<<30, "-m", "0")
	w := &metadataWatch{known: metadataKnown{Terms: map[string]uint64{}}, ready: make(chan struct{}, 1), alarm: make(chan struct{}, 1)}
	for run := range rounds + 1 {
		if run > 0 {
			kclient.CheckDisk(t, disk)
		}
		file := filepath.Join(host, "known")
		known, err := w.marshal()
		if err == nil {
			err = os.WriteFile(file, known, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		g := n.Boot(t, kclient.Guest{Name: "metadata", Host: serverHost, MemoryMiB: 1024, Disk: disk, Sysctl: noWriteback})
		g.Mount(t, kclient.Mount{Type: fs.kind, Source: "/dev/ubda", Target: diskMount, Flags: unix.MS_NOATIME, Data: fs.mountOptions})
		c := kclient.Program("metadata", "-dir", diskMount, "-known", file, "-run", strconv.Itoa(run))
		c.Stdout = &lines{each: w.line}
		w.begin(t, 1+rng.IntN(2), rng.IntN(2*metadataAbsent))
		task := g.Start(t, c)
		wait := func(what string, happened <-chan struct{}) {
			t.Helper()
			timeout := time.NewTimer(metadataDeadline)
			defer timeout.Stop()
			select {
			case <-happened:
			case <-task.Ended():
				t.Fatalf("run %d: the voters ended before %s: %s", run, what, w.last())
			case <-timeout.C:
				t.Fatalf("run %d: not %s within %v: %s", run, what, metadataDeadline, w.last())
			}
		}
		wait("they were ready", w.ready)
		if run == rounds {
			break
		}
		wait("the power cut", w.alarm)
		g.Kill(t)
		w.end()
		t.Logf("run %d: power cut around acknowledgement %d", run, w.acked())
	}
}

// metadataWatch follows the output of the voters of one run after the other.
type metadataWatch struct {
	ready, alarm chan struct{}

	mu       sync.Mutex
	t        *testing.T    // nil between runs; protected by mu
	known    metadataKnown // protected by mu
	restores int           // to wait for before more counts; protected by mu
	more     int           // acknowledgements until the alarm; protected by mu
	message  string        // the last line that is no acknowledgement; protected by mu
}

// begin asks for the alarm after some restores and some more acknowledgements.
func (w *metadataWatch) begin(t *testing.T, restores, more int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t, w.restores, w.more, w.message = t, restores, more, ""
}

// end ignores what still arrives of a run.
func (w *metadataWatch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t = nil
	select {
	case <-w.alarm:
	default:
	}
}

func (w *metadataWatch) marshal() ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return json.Marshal(w.known)
}

func (w *metadataWatch) acked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.known.Acked)
}

func (w *metadataWatch) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.message
}

func (w *metadataWatch) line(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name, ack := strings.CutPrefix(line, "ack ")
	var voter string
	var term uint64
	switch {
	case w.t == nil:
		return
	case ack:
		w.known.Acked = append(w.known.Acked, name)
		if w.restores > 0 {
			return
		}
		if w.more--; w.more < 0 {
			signal(w.alarm)
		}
	case strings.HasPrefix(line, "term "):
		if _, err := fmt.Sscanf(line, "term %s %d", &voter, &term); err != nil {
			w.message = line
			return
		}
		w.known.Terms[voter] = max(w.known.Terms[voter], term)
	case line == "ready":
		signal(w.ready)
	case line == "restored":
		w.restores--
	default:
		w.message = line
		w.t.Logf("voters: %s", line)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
