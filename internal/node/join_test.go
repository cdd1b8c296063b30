package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// hosts counts the addresses in 127/8 that tests of this process have used.
var hosts atomic.Uint32

// testConfig is that of a node with an address of its own.
func testConfig(t *testing.T, name string, roles ...string) *Config {
	t.Helper()
	dir := t.TempDir()
	host := fmt.Sprintf("127.%d.%d.%d", 130+os.Getpid()>>8&63, os.Getpid()&255, hosts.Add(1))
	c, err := ParseConfig(fmt.Appendf(nil, `
name: %[1]s
data: %[2]s/data
roles: [%[3]s]
advertise: %[4]s
meta: {listen: "%[4]s:7071"}
control: {listen: "%[4]s:7072"}
gossip: {listen: "%[4]s:7074"}
block: {listen: "%[4]s:7073", segment: 1MiB, disks: [%[5]s]}
http: {listen: "%[4]s:7070"}
nfs: {listen: "%[4]s:2049"}
api: {listen: "%[4]s:7443"}
local: {listen: "%[4]s:2050"%[6]s}
`, name, dir, strings.Join(roles, ", "), host, map[bool]string{true: dir + "/disk"}[slices.Contains(roles, RoleBlock)], map[bool]string{true: ", dir: " + dir + "/local"}[slices.Contains(roles, RoleLocal)]))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func startNode(t *testing.T, c *Config) *Node {
	t.Helper()
	n, err := Start(t.Context(), c, Options{Release: "test", Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

func refusal(t *testing.T, what string, err error, kind vfs.Kind, says string) {
	t.Helper()
	if vfs.KindOf(err) != kind || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %v (%v), want %v saying %q", what, err, vfs.KindOf(err), kind, says)
	}
}

// Everything that must not get a node into a cluster, and what must.
func TestJoin(t *testing.T) {
	ctx := t.Context()
	first := testConfig(t, "n1", RoleMeta, RoleBlock)
	if _, err := Start(ctx, first, Options{}); err == nil {
		t.Fatal("a node without a cluster starts")
	}
	if _, _, err := Init(first, InitOptions{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, first)
	ask := func(ttl time.Duration, roles ...string) string {
		t.Helper()
		r, err := admin{n}.NewToken(ctx, roles, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return r.Token
	}
	_, err := admin{n}.NewToken(ctx, []string{"king"}, time.Hour)
	refusal(t, "unknown role", err, vfs.KindInvalid, "king")
	_, err = admin{n}.NewToken(ctx, []string{RoleBlock}, 0)
	refusal(t, "no time", err, vfs.KindInvalid, "--ttl")

	good := ask(time.Hour, RoleBlock, RoleMeta)
	tok, err := parseToken(good)
	if err != nil {
		t.Fatal(err)
	}
	second := testConfig(t, "n2", RoleBlock)

	wrong := *tok
	wrong.secret = make([]byte, secretLen)
	refusal(t, "wrong secret", Join(ctx, second, wrong.String(), "test"), vfs.KindNotFound, "the token is not known")
	wrong = *tok
	wrong.fingerprint = strings.Repeat("00", 32)
	refusal(t, "another cluster", Join(ctx, second, wrong.String(), "test"), vfs.KindUnauthorized, "not of the cluster that the token is for")
	wrong = *tok
	wrong.control = []string{second.Advertise + ":1"}
	refusal(t, "nobody there", Join(ctx, second, wrong.String(), "test"), vfs.KindUnavailable, "refused")
	for _, skew := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		refusal(t, "clock", join(ctx, second, good, "test", func() time.Time { return time.Now().Add(skew) }), vfs.KindInvalid, "clock")
	}
	refusal(t, "clock of last month", join(ctx, second, good, "test", func() time.Time { return time.Now().AddDate(0, -1, 0) }), vfs.KindUnauthorized, "is this machine's clock right?")
	refusal(t, "taken name", Join(ctx, testConfig(t, "n1", RoleBlock), good, "test"), vfs.KindExists, "another node called n1")
	twin := testConfig(t, "n9", RoleBlock)
	twin.Advertise, twin.BlockListen = first.Advertise, first.BlockListen
	refusal(t, "taken address", Join(ctx, twin, good, "test"), vfs.KindExists, "is that of node n1")
	refusal(t, "role", Join(ctx, testConfig(t, "n9", RoleMeta, RoleBlock), ask(time.Hour, RoleBlock), "test"), vfs.KindPerm, "does not allow role meta")

	// None of them used the token up. The node that joins with it may ask again, when it did not hear the answer.
	if err := Join(ctx, second, good, "test"); err != nil {
		t.Fatal(err)
	}
	refusal(t, "joined twice", Join(ctx, second, good, "test"), vfs.KindExists, "already")
	d, err := openDataDir(vfile.OS{}, second)
	if err != nil {
		t.Fatal(err)
	}
	d.state.Ready = false
	if err := errors.Join(d.save(), os.Remove(filepath.Join(d.sub(pkiDir), pki.NodeCertFile))); err != nil {
		t.Fatal(err)
	}
	d.close()
	if err := Join(ctx, second, good, "test"); err != nil {
		t.Fatalf("asked again: %v", err)
	}
	thief := *second
	thief.Data = t.TempDir()
	td, err := openDataDir(vfile.OS{}, &thief)
	if err != nil {
		t.Fatal(err)
	}
	td.state.ID = d.state.ID
	if err := td.save(); err != nil {
		t.Fatal(err)
	}
	td.close()
	refusal(t, "token and id with another key", Join(ctx, &thief, good, "test"), vfs.KindAccess, "used already, by node n2")
	refusal(t, "used token", Join(ctx, testConfig(t, "n3", RoleBlock), good, "test"), vfs.KindAccess, "used already, by node n2")
	if _, err := os.Stat(filepath.Join(second.Data, pkiDir, pki.CAKeyFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a node without role meta has the CA's key: %v", err)
	}
	third := testConfig(t, "n3", RoleMeta)
	if err := Join(ctx, third, ask(time.Hour, RoleMeta), "test"); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(third.Data, pkiDir, pki.CAKeyFile)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the CA's key of a meta node: %v %v", st, err)
	}

	// Expiry is by the clock of the meta node.
	short := ask(time.Second, RoleBlock)
	late := *n.authority
	late.now = func() time.Time { return time.Now().Add(2 * time.Second) }
	st, _ := parseToken(short)
	req, err := pki.NewRequest("n4")
	if err != nil {
		t.Fatal(err)
	}
	_, err = late.join(ctx, &joinRequest{Secret: st.secret, CSR: req.DER, Time: late.now(), Node: testConfig(t, "n4", RoleBlock).record([]byte("0123456789abcdef"), "")})
	refusal(t, "expired", err, vfs.KindAccess, "expired")
	for what, r := range map[string]*joinRequest{
		"nothing": {}, "no node": {Secret: st.secret, CSR: req.DER, Time: time.Now()},
		"no request": {Secret: st.secret, CSR: []byte("x"), Time: time.Now(), Node: testConfig(t, "n4", RoleBlock).record([]byte("0123456789abcdef"), "")},
		"bad name":   {Secret: st.secret, CSR: req.DER, Time: time.Now(), Node: &metapb.Node{Name: "N/4", Id: make([]byte, 16), Roles: []string{RoleBlock}}},
	} {
		if _, err := n.authority.join(ctx, r); err == nil {
			t.Errorf("%s: joined", what)
		}
	}

	// Only what the certificate says; and a node with role block alone records and serves its disk.
	more := *second
	more.Roles = []string{RoleBlock, RoleGateway}
	_, err = Start(ctx, &more, Options{})
	refusal(t, "role that it did not join with", err, vfs.KindPerm, "gateway is not among them")
	renamed := *second
	renamed.Name = "n7"
	_, err = Start(ctx, &renamed, Options{})
	refusal(t, "renamed", err, vfs.KindInvalid, "never changes its name")
	b := startNode(t, second)
	if err := b.directory.refresh(ctx, b.meta); err != nil || len(b.directory.records()) != 3 {
		t.Errorf("node n2 knows %d nodes, %v", len(b.directory.records()), err)
	}
	if text, ok := b.health(); !ok || text != "ok" {
		t.Errorf("health of n2: %s", text)
	}

	// The key of secrets is for gateways, and the same whomever they ask.
	_, err = b.sealKey(ctx)
	refusal(t, "key of secrets for a block server", err, vfs.KindUnavailable, "only gateways seal secrets")
	own, err := n.sealKey(ctx)
	if err != nil || len(own) != 32 {
		t.Errorf("key of secrets: %d bytes, %v", len(own), err)
	}
	gate, err := n.authority.ca.Issue("n5", []string{RoleGateway}, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	asked, err := (&Node{directory: b.directory, renewer: &renewer{id: pki.NewHolder(gate), peers: b.directory, now: time.Now}}).sealKey(ctx)
	if err != nil || !bytes.Equal(asked, own) {
		t.Errorf("key of secrets for a gateway: %v, the same: %v", err, bytes.Equal(asked, own))
	}

	// Renewal, with a certificate that is about to expire.
	r := *b.renewer
	if r.due() {
		t.Error("a new certificate is due for renewal")
	}
	r.now = func() time.Time { return time.Now().Add(pki.NodeValidity * 3 / 4) }
	if !r.due() {
		t.Error("a certificate at three quarters of its time is not due")
	}
	old := b.id.Identity()
	if err := r.renew(ctx); err != nil {
		t.Fatal(err)
	}
	saved, err := pki.LoadIdentity(b.dir.files, b.dir.sub(pkiDir))
	if err != nil || !saved.NotAfter().Equal(b.id.Identity().NotAfter()) || b.id.Identity() == old || saved.Name() != "n2" || strings.Join(saved.Roles(), " ") != RoleBlock {
		t.Errorf("renewed: %v %v", saved, err)
	}
	refusal(t, "expired certificate", validity(old, time.Now().Add(2*pki.NodeValidity)), vfs.KindUnauthorized, "join anew")
	for _, x := range n.directory.records() {
		if x.Name == "n2" {
			if _, err := n.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_RemoveNode{RemoveNode: &metapb.RemoveNode{Name: x.Name, Id: x.Id}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	refusal(t, "renewal of a node that was removed", r.renew(ctx), vfs.KindUnavailable, "not in the cluster any more")
	_, err = n.authority.renew(ctx, "n2", []string{RoleBlock}, &renewRequest{CSR: req.DER})
	refusal(t, "the same", err, vfs.KindPerm, "not in the cluster any more")
}

// A start that was interrupted anywhere in `cluster init` is repeated, and the cluster is the same.
func TestInitIsRepeated(t *testing.T) {
	c := testConfig(t, "n1", RoleMeta, RoleBlock)
	id, _, err := Init(c, InitOptions{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, lost := range []string{"", pki.NodeCertFile, pki.CACertFile} {
		d, err := openDataDir(vfile.OS{}, c)
		if err != nil {
			t.Fatal(err)
		}
		d.state.Ready = false
		if err := d.save(); err != nil {
			t.Fatal(err)
		}
		d.close()
		if lost != "" {
			if err := os.Remove(filepath.Join(c.Data, pkiDir, lost)); err != nil {
				t.Fatal(err)
			}
		}
		again, _, err := Init(c, InitOptions{}, time.Now())
		if err != nil || again != id {
			t.Fatalf("without %q: cluster %s, %v, want %s", lost, again, err, id)
		}
	}
	startNode(t, c)
}

// A disk that was there and is not is not taken for a new one, unless an operator says so.
func TestLostDisk(t *testing.T) {
	c := testConfig(t, "n1", RoleMeta, RoleBlock)
	c.Disks = append(c.Disks, c.Disks[0]+"2")
	if _, _, err := Init(c, InitOptions{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	n, err := Start(t.Context(), c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.Disks[1]); err != nil {
		t.Fatal(err)
	}
	n, err = Start(t.Context(), c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := n.health(); !ok || !strings.Contains(text, "--replace-disk "+c.Disks[1]) {
		t.Errorf("health without a disk: %v %s", ok, text)
	}
	if _, err := os.Stat(c.Disks[1]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made where the disk was: %v", err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, err = Start(t.Context(), c, Options{ReplaceDisks: []string{c.Disks[1] + "/"}}) // as a shell completes it
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close(context.Background())
	if text, _ := n.health(); text != "ok" || n.disks[1].ID != 3 || n.disks[1].Replaces != 2 {
		t.Errorf("replaced: %s, %+v", text, n.disks[1].Admission)
	}
}

// A disk that is empty, at a place whose store is at another place of the node now, takes the place of no store: the one that was there is whole.
func TestDisksChangePlaces(t *testing.T) {
	c := testConfig(t, "n1", RoleMeta, RoleBlock)
	c.Disks = append(c.Disks, c.Disks[0]+"2")
	if _, _, err := Init(c, InitOptions{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	n, err := Start(t.Context(), c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The first disk died, and the second one came up in its place.
	if err := errors.Join(os.RemoveAll(c.Disks[0]), os.Rename(c.Disks[1], c.Disks[0])); err != nil {
		t.Fatal(err)
	}
	n, err = Start(t.Context(), c, Options{ReplaceDisks: []string{c.Disks[1]}})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close(context.Background())
	if a, b := n.disks[0], n.disks[1]; a.err != nil || a.ID != 2 || b.err != nil || b.ID != 3 || b.Replaces != 0 {
		t.Errorf("%+v %v, %+v %v", a.Admission, a.err, b.Admission, b.err)
	}
}

// What is written down of disks is not needed by those that the cluster knows: with a data directory that takes no files they run.
func TestDisksWithoutRoom(t *testing.T) {
	c := testConfig(t, "n1", RoleMeta, RoleBlock)
	if _, _, err := Init(c, InitOptions{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, c)
	d := n.disks[0]
	files := n.dir.files
	n.dir.files = fullFiles{files}
	defer func() { n.dir.files = files }()
	if err := n.admitDisk(t.Context(), d); err != nil {
		t.Errorf("nothing has changed: %v", err)
	}
	n.knownDisks = nil
	if err := n.admitDisk(t.Context(), d); err != nil {
		t.Errorf("the cluster knows it: %v", err)
	}
	d.Record = nil
	if err := n.remember(d); vfs.KindOf(err) != vfs.KindNoSpace {
		t.Errorf("a new one: %v", err)
	}
}

// fullFiles is a file system on which no file can be made.
type fullFiles struct{ vfile.FS }

func (f fullFiles) Create(string) (vfile.File, error) { return nil, vfs.KindNoSpace.Err("test") }

// The admin socket and the directory are the owner's alone, and the token's secret is nowhere in them.
func TestSecrets(t *testing.T) {
	c := testConfig(t, "n1", RoleMeta, RoleBlock)
	if _, _, err := Init(c, InitOptions{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, c)
	for path, mode := range map[string]os.FileMode{"": 0o700, adminFile: 0o600, pkiDir + "/" + pki.CAKeyFile: 0o600, pkiDir + "/" + pki.NodeKeyFile: 0o600} {
		if st, err := os.Stat(filepath.Join(c.Data, path)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%q: %v %v, want mode %#o", path, st, err, mode)
		}
	}
	r, err := admin{n}.NewToken(t.Context(), []string{RoleBlock}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := parseToken(r.Token)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.voter.Snapshot(clusterShard); err != nil {
		t.Fatal(err)
	}
	found := 0
	_ = filepath.WalkDir(c.Data, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		if bytes.Contains(b, tok.secret) {
			t.Errorf("the secret is in %s", path)
		}
		if bytes.Contains(b, tok.hash()) {
			found++
		}
		return nil
	})
	if found == 0 {
		t.Error("the hash is nowhere: this test does not see what is stored")
	}
}
