package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 5 * time.Minute

// network is cables between nodes by address; some are cut.
type network struct {
	mu   sync.Mutex
	side map[string]int // hosts of different sides do not reach each other while it is cut
	cut  bool
}

var errCut = errors.New("the network is cut")

func (n *network) reaches(from, to string) bool {
	host, _, err := net.SplitHostPort(to)
	if err != nil {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.cut || n.side[from] == n.side[host]
}

func (n *network) set(cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
}

// cable is a node's transport, of which the network loses packets and refuses streams.
type cable struct {
	*memberlist.NetTransport
	n    *network
	host string
}

func (c *cable) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if !c.n.reaches(c.host, a.Addr) {
		return time.Now(), nil // lost
	}
	return c.NetTransport.WriteToAddress(b, a)
}

func (c *cable) DialAddressTimeout(a memberlist.Address, d time.Duration) (net.Conn, error) {
	if !c.n.reaches(c.host, a.Addr) {
		return nil, errCut
	}
	return c.NetTransport.DialAddressTimeout(a, d)
}

var hosts atomic.Uint32

var key = bytes.Repeat([]byte{7}, 32)

// node starts one. All nodes know of each other.
func (n *network) node(t *testing.T, seeds *sync.Map, name string, side int, change func(*Options)) *Gossip {
	t.Helper()
	host := fmt.Sprintf("127.%d.%d.%d", 200+os.Getpid()>>8&31, os.Getpid()&255, hosts.Add(1))
	n.mu.Lock()
	n.side[host] = side
	n.mu.Unlock()
	addr := host + ":7074"
	o := Options{
		Self:   Member{Name: name, ID: strings.Repeat("0a", idBytes), Host: host, Roles: []string{"meta", "block"}, Rack: "r1", Ports: Ports{Meta: 7071, Block: 7073}},
		Listen: addr, Keys: [][]byte{key}, Cluster: "c", ProbeEvery: 100 * time.Millisecond, RejoinEvery: 200 * time.Millisecond,
		Seeds: func() map[string]string {
			out := map[string]string{}
			seeds.Range(func(k, v any) bool {
				out[k.(string)] = v.(string)
				return true
			})
			return out
		},
		transport: func(c *memberlist.NetTransportConfig) (memberlist.Transport, error) {
			x, err := memberlist.NewNetTransport(c)
			return &cable{x, n, host}, err
		},
	}
	if change != nil {
		change(&o)
	}
	g, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	seeds.Store(name, addr)
	return g
}

// sees waits until g sees all these as they are to be.
func sees(t *testing.T, g *Gossip, s State, names ...string) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		lacks := map[string]State{}
		have := map[string]State{}
		for _, x := range g.View() {
			have[x.Name] = x.State
		}
		for _, name := range names {
			if have[name] != s {
				lacks[name] = have[name]
			}
		}
		if len(lacks) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s sees %v, which are to be %s", g.o.Self.Name, lacks, s)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Two sides of a cut declare each other dead, then nobody of one side speaks to the other by itself; when the cut is over, all are alive again.
func TestCutHeals(t *testing.T) {
	n, seeds := &network{side: map[string]int{}}, &sync.Map{}
	left, right := []string{"a", "b", "c"}, []string{"x", "y"}
	all := map[string]*Gossip{}
	var mu sync.Mutex
	told := map[string]bool{} // what a was told last
	for side, names := range [][]string{left, right} {
		for _, name := range names {
			all[name] = n.node(t, seeds, name, side, func(o *Options) {
				if name == "a" {
					o.OnChange = func(m Member, alive bool) {
						mu.Lock()
						defer mu.Unlock()
						told[m.Name] = alive
					}
				}
			})
		}
	}
	for _, g := range all {
		sees(t, g, Alive, "a", "b", "c", "x", "y")
	}
	if m, ok := all["a"].Alive("x"); !ok || m.Address(m.Ports.Meta) == "" || m.Address(m.Ports.NFS) != "" || m.Rack != "r1" || len(m.Roles) != 2 {
		t.Errorf("what a knows of x: %+v", m)
	}
	for range 2 {
		n.set(true)
		for _, name := range left {
			sees(t, all[name], Dead, right...)
			sees(t, all[name], Alive, left...)
		}
		for _, name := range right {
			sees(t, all[name], Dead, left...)
		}
		if _, ok := all["a"].Alive("x"); ok {
			t.Error("a says that x is alive")
		}
		n.set(false)
		for _, g := range all {
			sees(t, g, Alive, "a", "b", "c", "x", "y")
		}
		mu.Lock()
		for _, name := range []string{"b", "c", "x", "y"} {
			if !told[name] {
				t.Errorf("a was not told that %s is alive", name)
			}
		}
		mu.Unlock()
	}
}

// A node that ends says so, so that nobody has to find out; one that comes back at another address takes its name along.
func TestLeaveAndReturn(t *testing.T) {
	n, seeds := &network{side: map[string]int{}}, &sync.Map{}
	a, b := n.node(t, seeds, "a", 0, nil), n.node(t, seeds, "b", 0, nil)
	sees(t, a, Alive, "b")
	sees(t, b, Alive, "a")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	sees(t, a, Dead, "b")
	b = n.node(t, seeds, "b", 0, nil)
	sees(t, a, Alive, "b")
	if m, _ := a.Alive("b"); m.Host != b.o.Self.Host {
		t.Errorf("b is at %s, not at %s", b.o.Self.Host, m.Host)
	}
}

// Who has another key, or is of another cluster, is not heard.
func TestStrangers(t *testing.T) {
	n, seeds := &network{side: map[string]int{}}, &sync.Map{}
	a := n.node(t, seeds, "a", 0, nil)
	for what, change := range map[string]func(*Options){
		"another key":     func(o *Options) { o.Keys = [][]byte{bytes.Repeat([]byte{8}, 32)} },
		"another cluster": func(o *Options) { o.Cluster = "d" },
	} {
		x := n.node(t, &sync.Map{}, "x", 0, change)
		if joined, err := x.list.Join([]string{a.o.Listen}); err == nil || joined != 0 {
			t.Errorf("%s: joined %d, %v", what, joined, err)
		}
		if joined, err := a.list.Join([]string{x.o.Listen}); err == nil || joined != 0 {
			t.Errorf("%s, asked by a: joined %d, %v", what, joined, err)
		}
		if len(a.View()) != 1 || len(x.View()) != 1 {
			t.Errorf("%s: %+v %+v", what, a.View(), x.View())
		}
	}
	// With the old key beside the new one both are understood.
	n.node(t, seeds, "b", 0, func(o *Options) { o.Keys = [][]byte{key, bytes.Repeat([]byte{8}, 32)} })
	sees(t, a, Alive, "b")
}

// While the nodes change to another key one after the other, in the order in which they do, any two of them understand each other; who still has the
// former one is not heard after that.
func TestKeysAreChanged(t *testing.T) {
	n, seeds := &network{side: map[string]int{}}, &sync.Map{}
	names := []string{"a", "b", "c"}
	var all []*Gossip
	for _, name := range names {
		all = append(all, n.node(t, seeds, name, 0, nil))
	}
	newer := bytes.Repeat([]byte{9}, 32)
	for _, keys := range [][][]byte{{key}, {key, newer}, {newer, key}, {newer}} {
		for _, g := range all {
			if err := g.SetKeys(keys); err != nil || g.Keys() != len(keys) {
				t.Fatalf("%d of %d keys, %v", g.Keys(), len(keys), err)
			}
			// Whoever has what of them: an exchange of states works in both directions.
			for _, x := range all {
				if x == g {
					continue
				}
				if _, err := g.list.Join([]string{x.o.Listen}); err != nil {
					t.Fatalf("%s to %s: %v", g.o.Self.Name, x.o.Self.Name, err)
				}
				if _, err := x.list.Join([]string{g.o.Listen}); err != nil {
					t.Fatalf("%s to %s: %v", x.o.Self.Name, g.o.Self.Name, err)
				}
			}
		}
	}
	for _, g := range all {
		sees(t, g, Alive, names...)
	}
	old := n.node(t, &sync.Map{}, "old", 0, nil)
	if joined, err := old.list.Join([]string{all[0].o.Listen}); err == nil || joined != 0 {
		t.Errorf("who has the former key joined %d, %v", joined, err)
	}
	if err := all[0].SetKeys(nil); err == nil {
		t.Error("no key is accepted")
	}
	if err := all[0].SetKeys([][]byte{{1}}); err == nil || all[0].Keys() != 1 {
		t.Errorf("a key of one byte: %d keys, %v", all[0].Keys(), err)
	}
}

func TestMember(t *testing.T) {
	long := strings.Repeat("x", 300)
	m := Member{Name: "n", ID: strings.Repeat("ab", idBytes), Host: strings.Repeat("h", maxHost), Roles: []string{"meta", "block", "gateway"}, Zone: long, Rack: long, Release: long, Ports: Ports{1, 2, 3, 65535}}
	b, err := m.append(nil)
	if err != nil || len(b) > metaBytes || metaBytes > memberlist.MetaMaxSize {
		t.Fatalf("%d bytes, at most %d, %v", len(b), metaBytes, err)
	}
	got, err := decode("n", b)
	m.Zone, m.Rack, m.Release = cut(long), cut(long), cut(long)
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range b {
		if _, err := decode("n", b[:i]); err == nil {
			t.Errorf("%d of %d bytes are understood", i, len(b))
		}
	}
	m.Host = long
	if _, err := m.append(nil); err == nil {
		t.Error("a host name of 300 bytes is taken")
	}
	m.Host, m.ID = "h", "ab"
	if _, err := m.append(nil); err == nil {
		t.Error("an id of one byte is taken")
	}
}

func FuzzMember(f *testing.F) {
	m := Member{ID: strings.Repeat("ab", idBytes), Host: "h", Roles: []string{"meta"}}
	b, err := m.append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode("n", b)
		if err != nil {
			return
		}
		if _, err := m.append(nil); err != nil {
			t.Errorf("%+v: %v", m, err)
		}
	})
}
