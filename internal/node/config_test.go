package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	nfsstate "github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

const minimal = `
name: n1
data: /srv/n1
roles: [meta, block]
advertise: 10.0.0.1
block: {disks: [/srv/d1, /srv/d2]}
`

// What --print-config prints is a configuration, and so it is with every key set to its example.
func TestExample(t *testing.T) {
	all := Example()
	if c, err := ParseConfig([]byte(strings.Replace(all, "roles: [meta, block, gateway]", "roles: [meta]", 1))); err != nil {
		t.Errorf("as printed: %v", err)
	} else if c.GCGrace.Minutes() != 10 || c.MetaListen != ":7071" || c.HTTPListen != "127.0.0.1:7070" ||
		c.Delegations != nfsstate.DelegateRead || c.ReplyCache != 256<<20 {
		t.Errorf("defaults: %+v", c)
	}
	var set []string
	for line := range strings.Lines(all) {
		for _, k := range keys {
			name := k.path[strings.LastIndexByte(k.path, '.')+1:]
			if strings.HasPrefix(strings.TrimLeft(line, " "), "#"+name+":") {
				line = strings.Replace(line, "#", "", 1)
				break
			}
		}
		set = append(set, line)
	}
	text := strings.Replace(strings.Join(set, ""), "several: false", "several: true", 1) // addresses that move need it
	c, err := ParseConfig([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if c.Zone != "eu-1" || len(c.Disks) != 2 || c.Segment != 256<<20 || len(c.Allow) != 1 || c.Lease.Seconds() != 30 {
		t.Errorf("%+v", c)
	}
	for _, k := range keys {
		if k.doc == "" && k.path != "rack" {
			t.Errorf("%s is not documented", k.path)
		}
	}
}

func TestConfigRefusals(t *testing.T) {
	if _, err := ParseConfig([]byte(minimal)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, says string }{
		{"name: n1", "nam: n1", "unknown key nam"},
		{"{disks:", "{disk: 1, disks:", "unknown key block.disk"},
		{"block: {", "blocks: {a: 1}\nblock: {", "unknown key blocks.a"},
		{"name: n1", "name: [a]", "name: one value is expected"},
		{"name: n1", "name: N1", "name: use up to 63 of a-z"},
		{"name: n1", "name: 'n1.x'", "name: use"},
		{"name: n1", "name: 12", "name: \"12\""},
		{"name: n1", "", "name: is required"},
		{"data: /srv/n1", "data: srv", "data: \"srv\": write an absolute path"},
		{"[meta, block]", "[meta, blok]", "roles[1]: \"blok\": use meta, block, gateway"},
		{"[meta, block]", "[block, block]", "roles[1]: block is listed twice"},
		{"[meta, block]", "block", "roles: a list is expected"},
		{"[meta, block]", "[]", "roles: is required"},
		{"[meta, block]", "[meta]", "block.disks: this node does not have the role block"},
		{"10.0.0.1", "10.0.0.1:70", "advertise: \"10.0.0.1:70\": write an address or a host name, without a port"},
		{"10.0.0.1", "0.0.0.0", "advertise: 0.0.0.0 is no address"},
		{"{disks: [/srv/d1, /srv/d2]}", "{}", "block.disks: is required"},
		{"/srv/d2", "/srv/d1/x", "block.disks[1]: /srv/d1/x and block.disks[0] are not apart"},
		{"/srv/d2", "/srv/d1/", "block.disks[1]"},
		{"/srv/d2", "d2", "block.disks[1]: \"d2\": write an absolute path"},
		{"/srv/d2", "/srv", "are not apart"},
		{"[/srv/d1, /srv/d2]", "[/srv/n1/..]", "the data directory is in it"},
		{"block: {", "nfs: {delegations: all}\nblock: {", "nfs.delegations: \"all\": use read, write or none"},
		{"block: {", "nfs: {reply_cache: 512KiB}\nblock: {", "nfs.reply_cache: \"512KiB\": use a power of two from 1MiB"},
		{"block: {", "block: {segment: 3MiB, ", "block.segment: \"3MiB\": use a power of two"},
		{"block: {", "block: {segment: 1TiB, ", "block.segment"},
		{"block: {", "block: {listen: ':7071', ", "block.listen: port 7071 is that of meta.listen"},
		{"block: {", "block: {listen: '7071', ", "block.listen: \"7071\": write host:port"},
		{"block: {", "block: {listen: ':0', ", "with a port from 1 to 65535"},
		{"block: {", "meta: {gc_grace: 10}\nblock: {", "meta.gc_grace: \"10\": use 1s to 720h"},
		{"block: {", "meta: {raft_log: x}\nblock: {", "meta.raft_log"},
		{"block: {", "nfs: {allow: [10.0.0.300]}\nblock: {", "nfs.allow[0]: \"10.0.0.300\" is neither"},
		{"block: {", "nfs: {allow: [10]}\nblock: {", "nfs.allow[0]: 10 is not text"},
		{"block: {", "nfs: {root_squash: 'maybe'}\nblock: {", "nfs.root_squash: maybe: use true or false"},
		{"block: {", "nfs: {lease: 2h}\nblock: {", "nfs.lease"},
		{"block: {", "health: {suspect_after: 20m}\nblock: {", "health: fail_after 1s, suspect_after 20m0s, out_after 10m0s: none may be longer than the next"},
		{"block: {", "health: {fail_after: 11s}\nblock: {", "health: fail_after 11s"},
		{"block: {", "health: {out_after: 1}\nblock: {", "health.out_after: \"1\": use"},
		{"block: {", "gossip: {listen: ':7073'}\nblock: {", "gossip.listen: port 7073 is that of block.listen"},
		{"block: {", "seeds: [a]\nblock: {", "seeds"},
		{"block: {", "log: {level: loud}\nblock: {", "log.level"},
		{"block: {", "zone: 'a b'\nblock: {", "zone"},
		{"block: {", "\tx\nblock: {", "not valid YAML"},
	} {
		if !strings.Contains(minimal, c.old) {
			t.Fatalf("%q is not in the configuration", c.old)
		}
		_, err := ParseConfig([]byte(strings.Replace(minimal, c.old, c.new, 1)))
		if vfs.KindOf(err) != vfs.KindInvalid || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v, want a refusal that says %q", c.new, err, c.says)
		}
	}
}

// Addresses that move are of IPv4 and IPv6, and such that can be one machine's in a network.
func TestAddresses(t *testing.T) {
	parse := func(list string) (*Config, error) {
		return ParseConfig([]byte("name: n1\ndata: /srv/n1\nroles: [gateway]\nadvertise: 10.0.0.1\nnfs: {several: true, addresses: [" + list + "]}\n"))
	}
	c, err := parse("10.0.0.50/24, fd00:10::50/64")
	if err != nil {
		t.Fatal(err)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.50/24"), netip.MustParsePrefix("fd00:10::50/64")}; !slices.Equal(c.Addresses, want) {
		t.Errorf("%v, want %v", c.Addresses, want)
	}
	for list, says := range map[string]string{
		"10.0.0.50":                    "is no address with the length of its network",
		"fd00:10::50":                  "is no address with the length of its network",
		"fd00:10::50/129":              "is no address with the length of its network",
		"fd00:10::50%eth0/64":          "is no address with the length of its network",
		"fd00:10::50/64, 'fe80::1/64'": "nfs.addresses[1]: \"fe80::1/64\" cannot move",
		"'::/64'":                      "cannot move",
		"0.0.0.0/8":                    "cannot move",
		"ff02::1/64":                   "cannot move",
		"224.0.0.5/24":                 "cannot move",
		"'::ffff:10.0.0.50/120'":       "write 10.0.0.50",
	} {
		if _, err := parse(list); vfs.KindOf(err) != vfs.KindInvalid || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want a refusal that says %q", list, err, says)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(Example()))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseConfig(raw)
		if err == nil && (c.Name == "" || c.Data == "" || len(c.Roles) == 0) {
			t.Errorf("accepted: %+v", c)
		}
	})
}

func TestLayout(t *testing.T) {
	for _, c := range []struct {
		nodes, disks    int
		profile, domain string
		want, says      string
	}{
		{0, 1, "", "", "1+0 disk", ""},
		{0, 2, "", "", "1+1 disk", ""},
		{1, 4, "", "", "2+2 disk", ""},
		{1, 12, "", "", "4+2 disk", ""},
		{3, 2, "", "", "2+1 node", ""},
		{3, 2, "4+2", "", "4+2 disk", ""},
		{6, 1, "4+2", "", "4+2 node", ""},
		{6, 1, "4+2", "disk", "4+2 disk", ""},
		{6, 1, "", "", "4+2 node", ""},
		{2, 1, "", "", "1+1 disk", ""},
		{1, 2, "4+2", "", "", "needs 6 failure domains, one for each of 4 data and 2 parity shards, and 1 node(s) with 2 disk(s) each are 2 of --domain disk"},
		{3, 4, "4+2", "node", "", "are 3 of --domain node"},
		{1, 0, "", "", "", "needs role block"},
		{1, 2, "5", "", "", "no erasure profile"},
		{1, 2, "", "rack", "", "--domain"},
		{-1, 2, "", "", "", "--nodes"},
	} {
		l, err := layout(InitOptions{Nodes: c.nodes, Profile: c.profile, Domain: c.domain}, c.disks)
		got := l.Profile.String() + " " + l.Domain
		if c.says == "" && (err != nil || got != c.want) || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%+v: %s %v", c, got, err)
		}
	}
}

func TestToken(t *testing.T) {
	fp := strings.Repeat("ab", 32)
	for _, control := range [][]string{{"10.0.0.1:7072"}, {"a.example.com:1", "[::1]:2"}} {
		want := newToken(fp, control)
		got, err := parseToken(" " + want.String() + "\n")
		if err != nil || got.fingerprint != fp || string(got.secret) != string(want.secret) || strings.Join(got.control, " ") != strings.Join(control, " ") {
			t.Errorf("%s: %+v %v", want, got, err)
		}
	}
	good := newToken(fp, []string{"h:1"}).String()
	for _, bad := range []string{"", "x", good[:40], strings.Replace(good, "v1.", "v2.", 1), strings.Replace(good, ".ab", ".x", 1), good + ",", strings.TrimSuffix(good, ":1"), strings.Repeat("a", 5000)} {
		if tk, err := parseToken(bad); err == nil {
			t.Errorf("%q: %+v", bad, tk)
		}
	}
}
