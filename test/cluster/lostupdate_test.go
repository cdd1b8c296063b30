//go:build linux

package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
)

// lostUpdates are two gateways, of which the first is paused while clients go on at the second one.
type lostUpdates struct {
	t      *testing.T
	first  *machine
	second *machine
	b      *moving // at the second gateway, always
	name   string  // of the round
}

// update is a file that has something at the gateway that is paused, and what is to come of it.
type update struct {
	paused func() // the first gateway stands still: what its client does at the second one
	awake  func() // the first gateway goes on, and serves again
}

// TestLostUpdates pauses a gateway that has something of its clients: bytes that are not stable, requests that have arrived and were not begun, a lock. They are
// sent again through another gateway, and changed there; then the first one wakes up. Nothing that was acknowledged is lost or undone: with overwriting, with truncation, with
// a client whose lock has ended meanwhile, and with a gateway whose clock is five minutes ahead, or behind.
func TestLostUpdates(t *testing.T) {
	needClocks(t)
	t.Parallel()
	ms := machinesFrom(t, 41, "meta, block", "gateway", "gateway")
	n1, n2, n3 := ms[0], ms[1], ms[2]
	n1.conf.disks, n1.conf.meta = 3, ", gateway_lease: 2s"
	n1.configure()
	for _, g := range []*machine{n2, n3} {
		g.conf.nfs = ", several: true, lease: 4s"
		g.configure()
	}
	n1.must("cluster", "init", "--profile", "2+1", "--domain", "disk", "--nodes", "1")
	n1.start()
	for _, g := range []*machine{n2, n3} {
		g.must("node", "join", "--token", n1.must("cluster", "token", "--roles", "gateway"))
		g.begin()
	}
	n2.ready()
	n3.ready()
	t.Run("the API and NFS", func(t *testing.T) { readYourWrites(t, n1, n2, n3) })
	for _, off := range []time.Duration{0, 5 * time.Minute, -5 * time.Minute} {
		n2.shiftClock(off)
		u := &lostUpdates{t: t, first: n2, second: n3, b: newMoving(t, fmt.Sprint("b", off), n3), name: fmt.Sprintf("off by %v", off)}
		u.b.create("b " + u.name) // who has nothing ends after some silence
		u.round(off)
	}
	for _, m := range []*machine{n3, n2, n1} {
		m.stop()
	}
}

func (u *lostUpdates) round(off time.Duration) {
	t := u.t
	t.Helper()
	var all []update
	for _, f := range []func() update{u.overwritten, u.truncated, u.underWay, u.unlocked} {
		all = append(all, f())
	}
	u.first.signal(syscall.SIGSTOP)
	began := time.Now()
	var wg sync.WaitGroup
	for _, x := range all {
		wg.Go(x.paused)
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	u.first.signal(syscall.SIGCONT)
	// It serves again when it answers a client of its own.
	c := newMoving(t, "c of "+u.name, u.first)
	made := c.create("made by a clock that is " + u.name)
	if ahead := time.Until(made.Attr.Mtime); ahead < off-time.Minute || ahead > off+time.Minute {
		t.Errorf("the gateway whose clock is off by %v stamps a file with a time that is off by %v: its clock was not shifted", off, ahead)
	}
	c.ok(c.CloseFile(c.ctx(), made), "close")
	for range 2 { // through both gateways, then again after both have been asked
		for _, x := range all {
			x.awake()
		}
	}
	t.Logf("%s: the gateway was paused for %v", u.name, time.Since(began).Round(time.Millisecond))
}

// reads is what both gateways give of a file.
func (u *lostUpdates) reads(name string, want []byte) {
	u.t.Helper()
	for _, at := range []*machine{u.first, u.second} {
		c := newMoving(u.t, fmt.Sprint("reader ", u.name, name, time.Now().UnixNano()), at)
		got, err := readAll(c.ctx(), c.Client, c.root, name)
		c.ok(err, "read %s through %s", name, at.name)
		if !bytes.Equal(got, want) {
			u.t.Errorf("%s: %s through %s is %q (%d bytes), want %q (%d)", u.name, name, at.name, head(got), len(got), head(want), len(want))
		}
		c.ok(c.Close(c.ctx()), "end of a client")
	}
}

// client is one at the first gateway with a file.
func (u *lostUpdates) client(what string) (m *moving, f *nfsclient.File, name string) {
	name = what + " " + u.name
	m = newMoving(u.t, name, u.first)
	return m, m.create(name), name
}

// again commits what was written; it is sent again if it was lost.
func (u *lostUpdates) again(m *moving, f *nfsclient.File, w nfsclient.Written, p []byte) {
	v, err := m.Commit(m.ctx(), f.FH, 0, 0)
	m.ok(err, "commit at the second gateway")
	if v == w.Verifier {
		u.t.Errorf("%s: the second gateway says that what the first one had is stable", u.name)
	}
	m.write(f, nfsv4.FILE_SYNC4, p)
}

// overwritten: what was not stable is sent again through the second gateway, and overwritten there, in part.
func (u *lostUpdates) overwritten() update {
	m, f, name := u.client("overwritten")
	old, newer := bytes.Repeat([]byte("old"), 5000), bytes.Repeat([]byte("NEW"), 3000)
	w := m.write(f, nfsv4.UNSTABLE4, old)
	return update{func() {
		m.to(u.second)
		u.again(m, f, w, old)
		m.write(f, nfsv4.FILE_SYNC4, newer)
	}, func() {
		u.reads(name, append(bytes.Clone(newer), old[len(newer):]...))
	}}
}

// truncated: it is sent again, and cut off by another client.
func (u *lostUpdates) truncated() update {
	m, f, name := u.client("truncated")
	old := bytes.Repeat([]byte("old"), 9000)
	m.write(f, nfsv4.FILE_SYNC4, old[:6000])
	w := m.write(f, nfsv4.UNSTABLE4, old)
	return update{func() {
		m.to(u.second)
		u.again(m, f, w, old)
		u.b.ok(u.b.Setattr(u.b.ctx(), f.FH, nfsclient.Stateid{}, attr.Size(5)), "truncate")
	}, func() {
		u.reads(name, old[:5])
	}}
}

// underWay: requests have reached the first gateway when it stands still. They are carried out by the second one, and what they did is changed again; the first one
// finds them when it goes on.
func (u *lostUpdates) underWay() update {
	m, f, name := u.client("under way")
	ren, _, from := u.client("renamed")
	rm, gone, removed := u.client("removed")
	to := "to " + from
	return update{func() {
		var wg sync.WaitGroup
		wg.Go(func() { m.write(f, nfsv4.FILE_SYNC4, []byte("old bytes")) })
		wg.Go(func() { ren.ok(ren.Rename(ren.ctx(), ren.root, from, ren.root, to), "rename") })
		wg.Go(func() { rm.ok(rm.Remove(rm.ctx(), rm.root, removed), "remove") })
		// Whether they have arrived by then decides nothing: if not, they are sent once.
		time.Sleep(200 * time.Millisecond)
		for _, x := range []*moving{m, ren, rm} {
			x.to(u.second)
		}
		wg.Wait()
		m.write(f, nfsv4.FILE_SYNC4, []byte("NEW"))
		ren.ok(ren.Rename(ren.ctx(), ren.root, to, ren.root, from), "rename back")
		rm.ok(rm.CloseFile(rm.ctx(), gone), "close")
		again := rm.create(removed)
		rm.write(again, nfsv4.FILE_SYNC4, []byte("made again"))
	}, func() {
		u.reads(name, []byte("NEW bytes"))
		u.reads(from, nil)
		u.reads(removed, []byte("made again"))
		if _, _, err := u.b.Lookup(u.b.ctx(), u.b.root, to); nfsclient.StatusOf(err) != nfsv4.NFS4ERR_NOENT {
			u.t.Errorf("%s: the former name is there again: %v", u.name, err)
		}
	}}
}

// unlocked: a client writes under a lock, comes to the second gateway and is not heard of any more. Its lock ends, another client has it and writes. Neither what the
// first one had written comes back, nor may it go on.
func (u *lostUpdates) unlocked() update {
	m, f, name := u.client("unlocked")
	lock := &nfsclient.Lock{Owner: "l"}
	_, err := m.LockRange(m.ctx(), f, lock, nfsv4.WRITE_LT, 0, 100)
	m.ok(err, "lock")
	w := m.write(&nfsclient.File{FH: f.FH, Stateid: lock.Stateid}, nfsv4.UNSTABLE4, []byte("under the lock that ended"))
	want := []byte("under the lock")
	return update{func() {
		m.to(u.second)
		_, err := m.Getattr(m.ctx(), f.FH) // and from now on it is silent
		m.ok(err, "attributes")
		o := u.b.open(name)
		l := &nfsclient.Lock{Owner: "b"}
		for {
			_, err := u.b.LockRange(u.b.ctx(), o, l, nfsv4.WRITE_LT, 0, 100)
			if err == nil {
				break
			}
			if nfsclient.StatusOf(err) != nfsv4.NFS4ERR_DENIED {
				u.b.ok(err, "lock")
			}
			u.b.ok(nil, "")
			time.Sleep(50 * time.Millisecond)
		}
		u.b.write(o, nfsv4.FILE_SYNC4, want)
	}, func() {
		ctx, cancel := context.WithTimeout(u.t.Context(), patience)
		defer cancel()
		held := &nfsclient.File{FH: f.FH, Stateid: lock.Stateid}
		if _, err := m.Write(ctx, held, 0, nfsv4.FILE_SYNC4, []byte("too late")); err == nil {
			u.t.Errorf("%s: a client whose lock somebody else has got writes under it", u.name)
		}
		if v, err := m.Commit(ctx, f.FH, 0, 0); err == nil && v == w.Verifier {
			u.t.Errorf("%s: what was lost is said to be stable", u.name)
		}
		u.reads(name, want)
	}}
}

// readYourWrites: what was done through the API of a gateway is seen by NFS at another one, and through its API, and the other way round.
func readYourWrites(t *testing.T, n1, n2, n3 *machine) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	secret, _, _ := strings.Cut(n1.must("token", "create", "writer", "--role", "editor"), "\n")
	tree := func(m *machine) *api.Tree {
		c, err := api.Connect(api.Endpoint{URL: "http://" + m.host + ":7443", Token: secret})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c.Tree("default", "default")
	}
	trees := []*api.Tree{tree(n2), tree(n3)}
	mounts := []*moving{newMoving(t, "api 2", n2), newMoving(t, "api 3", n3)}
	for i := range 8 {
		here, there := i%2, 1-i%2
		p := bytes.Repeat([]byte{byte('a' + i)}, 10+i*20_000)
		if _, err := trees[here].Upload(ctx, "/uploaded", bytes.NewReader(p), api.Put{Length: int64(len(p))}); err != nil {
			t.Fatal(err)
		}
		m := mounts[there]
		got, err := readAll(ctx, m.Client, m.root, "uploaded")
		if err != nil || !bytes.Equal(got, p) {
			t.Fatalf("round %d: %d bytes by NFS at the other gateway, %v, want %d", i, len(got), err, len(p))
		}
		name := fmt.Sprint("written", i)
		f := m.create(name)
		m.write(f, nfsv4.FILE_SYNC4, p)
		for at, x := range trees {
			c, err := x.Download(ctx, "/"+name, 0, "")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			c.Close()
			if err != nil || !bytes.Equal(got, p) {
				t.Fatalf("round %d: %d bytes by the API of gateway %d, %v, want %d", i, len(got), at+2, err, len(p))
			}
			st, err := x.Stat(ctx, "/"+name)
			if err != nil || st.Size != uint64(len(p)) {
				t.Fatalf("round %d: %d bytes by the API of gateway %d, %v, want %d", i, st.Size, at+2, err, len(p))
			}
			list, err := x.List(ctx, "/", "", 1000)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, e := range list.Files {
				found = found || e.Name == name
			}
			if !found {
				t.Fatalf("round %d: gateway %d does not list what the other one's client made: %v", i, at+2, list.Files)
			}
		}
		if err := trees[here].Delete(ctx, "/"+name); err != nil {
			t.Fatal(err)
		}
		if _, _, err := m.Lookup(ctx, m.root, name); nfsclient.StatusOf(err) != nfsv4.NFS4ERR_NOENT {
			t.Fatalf("round %d: deleted by the API of the other gateway, and it is there: %v", i, err)
		}
		m.ok(m.CloseFile(ctx, f), "close")
	}
}
