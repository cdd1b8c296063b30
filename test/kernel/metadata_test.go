//go:build linux

package kernel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// The program of TestMetadataPowerCut: three voters with small logs that take a snapshot every moment, and creators of
// names. Beside them one voter after the other goes away, misses so much that the others drop the entries it
// needs, and comes back, which sends it a snapshot and restores it. On its output:
//
//	ready             all voters opened what the last run left, agree, and have every acknowledged name
//	ack NAME          NAME was acknowledged
//	term VOTER N      VOTER has been in term N
//	restored          a voter came back and has everything again
//
// The file of -known has what earlier runs printed.

const (
	metadataShard    = 1
	metadataFS       = 1
	metadataVoters   = 3
	metadataCreators = 4
	metadataPatience = 90 * time.Second
	// Bytes of a name's entry. raft-wal keeps entries that it was told to delete until it is done with their segment.
	metadataTarget = 4000
	metadataAbsent = 400 // names that a voter misses, more than a segment holds
)

// metadataKnown is what must have survived.
type metadataKnown struct {
	Acked []string
	Terms map[string]uint64 // of voters
}

// metadataCluster is the voters. Only its creators run beside the goroutine that owns it.
type metadataCluster struct {
	dir     string
	names   []string
	servers []*raftmeta.Server

	mu    sync.Mutex
	addrs map[string]string // of the voters that run; protected by mu
}

func metadata(args []string) int {
	if err := runMetadata(args); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func runMetadata(args []string) error {
	f := flag.NewFlagSet("metadata", flag.ContinueOnError)
	dir := f.String("dir", "", "of the voters")
	knownFile := f.String("known", "", "JSON file of metadataKnown")
	run := f.Int("run", 0, "number of this run")
	if err := f.Parse(args); err != nil {
		return err
	}
	var known metadataKnown
	b, err := os.ReadFile(*knownFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &known); err != nil {
		return err
	}
	ctx := context.Background()
	m := &metadataCluster{dir: *dir, servers: make([]*raftmeta.Server, metadataVoters), addrs: map[string]string{}}
	for i := range metadataVoters {
		m.names = append(m.names, fmt.Sprintf("voter-%d", i))
	}
	if *run == 0 {
		if err := m.form(); err != nil {
			return err
		}
	}
	for i := range m.servers {
		if err := m.start(i); err != nil {
			return fmt.Errorf("%s does not start: %w", m.names[i], err)
		}
		// A voter that forgot its term may vote in it again. What it has now is what it found: no election comes so soon,
		// and if one does, the check is only weaker.
		if term := m.status(i).Term; term < known.Terms[m.names[i]] {
			return fmt.Errorf("%s is back in term %d, and was in %d", m.names[i], term, known.Terms[m.names[i]])
		}
	}
	security := func(string) wire.Security { return metadataSecurity("gateway", "gateway") }
	client, err := raftmeta.NewClient(raftmeta.ClientOptions{Nodes: m.names, Resolver: m, Security: security, Logger: slog.New(slog.DiscardHandler), AttemptTimeout: time.Second})
	if err != nil {
		return err
	}
	if _, err := client.Register(ctx, metadataShard, metapb.OriginKind_ORIGIN_GATEWAY, "gateway", fmt.Appendf(nil, "%016x", *run)); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	if *run == 0 {
		if _, err := client.Apply(ctx, metadataShard, &metapb.Command{Fs: metadataFS, Op: &metapb.Command_CreateNamespace{
			CreateNamespace: &metapb.CreateNamespace{RootMode: 0o755, HashKey: make([]byte, 16)},
		}}); err != nil {
			return fmt.Errorf("create namespace: %w", err)
		}
	}
	if err := m.agree(); err != nil {
		return err
	}
	if err := checkAcked(ctx, client, known.Acked); err != nil {
		return err
	}
	fmt.Println("ready")
	return m.load(ctx, client, *run)
}

func metadataSecurity(name, role string) wire.Security {
	return wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: name, Roles: []string{role}}}
}

// Resolve implements raftmeta.Resolver.
func (m *metadataCluster) Resolve(_ context.Context, node string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a, ok := m.addrs[node]; ok {
		return a, nil
	}
	return "", fmt.Errorf("%s is away", node)
}

// form makes the voters. All of it comes before the first acknowledgement.
func (m *metadataCluster) form() error {
	var all []raftmeta.Replica
	for _, name := range m.names {
		r, err := raftmeta.Format(raftmeta.FormatOptions{Dir: filepath.Join(m.dir, name), Cluster: []byte("metadata"), Node: name, Shards: []uint16{metadataShard}})
		if err != nil {
			return err
		}
		all = append(all, r...)
	}
	return raftmeta.Bootstrap(nil, filepath.Join(m.dir, m.names[0]), metadataShard, all)
}

func (m *metadataCluster) start(i int) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	name := m.names[i]
	s, err := raftmeta.Open(raftmeta.Options{
		Dir: filepath.Join(m.dir, name), Listener: ln, Resolver: m,
		Security:        metadataSecurity(name, "meta"),
		ClientSecurity:  func(string) wire.Security { return metadataSecurity(name, "meta") },
		Logger:          slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelError})).With("node", name),
		WALSegmentBytes: 1 << 20, MemTableBytes: 1 << 20, BlockCacheBytes: 8 << 20, RecordCacheBytes: 4 << 20,
		TrailingLogs: 1, SnapshotThreshold: 64, SnapshotInterval: 200 * time.Millisecond,
	})
	if err != nil {
		return err // it closed the listener
	}
	m.servers[i] = s
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addrs[name] = ln.Addr().String()
	return nil
}

func (m *metadataCluster) stop(i int) error {
	m.mu.Lock()
	delete(m.addrs, m.names[i])
	m.mu.Unlock()
	return m.servers[i].Close()
}

func (m *metadataCluster) status(i int) raftmeta.ShardStatus { return m.servers[i].Status()[0] }

// until waits for what has to happen.
func until(what string, happened func() (bool, error)) error {
	for end := time.Now().Add(metadataPatience); ; time.Sleep(10 * time.Millisecond) {
		ok, err := happened()
		if err != nil || ok {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %v for %s", metadataPatience, what)
		}
	}
}

// agree waits until all voters have the same entries, and compares their states.
func (m *metadataCluster) agree() error {
	return until("equal states", func() (bool, error) {
		first := m.status(0)
		for i := range m.servers {
			st := m.status(i)
			switch {
			case st.Err != "":
				return false, fmt.Errorf("%s stopped: %s", m.names[i], st.Err)
			case st.State != first.State || st.State == 0:
				return false, nil
			case !bytes.Equal(st.Digest, first.Digest):
				return false, fmt.Errorf("the states of %s and %s differ at entry %d", m.names[0], m.names[i], st.State)
			}
		}
		return true, nil
	})
}

// checkAcked looks for every acknowledged name.
func checkAcked(ctx context.Context, client *raftmeta.Client, acked []string) error {
	have := map[string]bool{}
	for cookie, eof := uint64(0), false; !eof; {
		r, err := client.Query(ctx, metadataShard, &metapb.Query{Fs: metadataFS, Q: &metapb.Query_ReadDir{ReadDir: &metapb.ReadDirQ{
			Dir: uint64(vfs.RootIno), Cookie: cookie, MaxEntries: 1000,
		}}})
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		for _, e := range r.GetReadDir().GetEntries() {
			have[string(e.Name)], cookie = true, e.Cookie
		}
		eof = r.GetReadDir().GetEof()
	}
	var lost []string
	for _, name := range acked {
		if !have[name] {
			lost = append(lost, name)
		}
	}
	if len(lost) > 0 {
		return fmt.Errorf("%d of %d acknowledged names are lost, such as %s", len(lost), len(acked), lost[0])
	}
	return nil
}

// load creates names and sends voters away until the power is cut; it returns only with an error.
func (m *metadataCluster) load(ctx context.Context, client *raftmeta.Client, run int) error {
	failed := make(chan error, metadataCreators)
	var mu sync.Mutex
	out, created := bufio.NewWriter(os.Stdout), 0
	for c := range metadataCreators {
		go func() { // until the power is cut, or the process ends
			mode := uint32(0o644)
			for n := 0; ; n++ {
				name := fmt.Sprintf("r%d-c%d-%d", run, c, n)
				_, err := client.Apply(ctx, metadataShard, &metapb.Command{Fs: metadataFS, Op: &metapb.Command_Create{Create: &metapb.Create{
					Parent: uint64(vfs.RootIno), Name: []byte(name), Type: uint32(vfs.TypeSymlink), Exclusive: uint32(vfs.Guarded),
					Attr: &metapb.AttrSet{Mode: &mode}, Target: bytes.Repeat([]byte("t"), metadataTarget),
				}}})
				if err != nil {
					failed <- fmt.Errorf("create %s: %w", name, err)
					return
				}
				mu.Lock()
				created++
				fmt.Fprintf(out, "ack %s\n", name)
				err = out.Flush()
				mu.Unlock()
				if err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return created
	}
	more := func(n int) error {
		for n += count(); count() < n; { // however slow the disk is, one comes after the other
			had := count()
			if err := until("one more name", func() (bool, error) {
				select {
				case err := <-failed:
					return false, err
				default:
					return count() > had, nil
				}
			}); err != nil {
				var states []string
				for i, s := range m.servers {
					if s != nil {
						states = append(states, fmt.Sprintf("%s %+v", m.names[i], m.status(i)))
					}
				}
				return fmt.Errorf("%w, has %d of %d: %s", err, count(), n, strings.Join(states, ", "))
			}
		}
		return nil
	}
	for away := 0; ; away = (away + 1) % metadataVoters {
		if err := m.stop(away); err != nil {
			return err
		}
		if err := more(metadataAbsent); err != nil {
			return err
		}
		var reached uint64
		for i := range m.servers {
			if i != away {
				reached = max(reached, m.status(i).State)
			}
		}
		if err := m.start(away); err != nil {
			return fmt.Errorf("%s does not come back: %w", m.names[away], err)
		}
		if err := until("the return of a voter", func() (bool, error) {
			st := m.status(away)
			if st.Err != "" {
				return false, fmt.Errorf("%s stopped: %s", m.names[away], st.Err)
			}
			return st.State >= reached, nil
		}); err != nil {
			return err
		}
		mu.Lock()
		for i, name := range m.names {
			fmt.Fprintf(out, "term %s %d\n", name, m.status(i).Term)
		}
		fmt.Fprintln(out, "restored")
		err := out.Flush()
		mu.Unlock()
		if err != nil {
			return err
		}
		if err := more(20); err != nil {
			return err
		}
	}
}
