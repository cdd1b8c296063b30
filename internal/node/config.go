package node

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"

	"github.com/rackfs/rackfs/blockstore/budget"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/blockstore/upkeep"
	"github.com/rackfs/rackfs/internal/cloudimport"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/nfsserver/export"
	nfsstate "github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/nodegroup/gossip"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

// Roles of a node.
const (
	RoleMeta    = "meta"
	RoleBlock   = "block"
	RoleGateway = "gateway"
	RoleLocal   = "local"
)

var allRoles = []string{RoleMeta, RoleBlock, RoleGateway, RoleLocal}

const (
	maxConfigBytes = 1 << 20
	maxSegment     = 4 << 30
	maxDisks       = 64
	minBudget      = 1 << 20
	maxBudget      = 64 << 30

	minProbeEvery = 50 * time.Millisecond
	maxTiming     = 30 * 24 * time.Hour

	minGatewayLease = 2 * time.Second
	// minFloatingLease: the address of a gateway that died is gone by itself before another one has it.
	minFloatingLease = 3 * time.Second
	maxGatewayLease  = 10 * time.Minute
	// severalLease is that of a gateway that is one of several: others wait for it when it died.
	severalLease = 3 * time.Second
	// minCourtesy is how long NFS clients keep what they have after the end of their gateway, at least, for another one to take them over.
	minCourtesy = 2 * time.Minute
)

// Config of a node. See --print-config for what each value means.
type Config struct {
	Name, Data    string
	Roles         []string
	Advertise     string
	Zone, Rack    string
	Group         string
	MetaListen    string
	RaftLog       string
	GCGrace       time.Duration
	GatewayLease  time.Duration // of what gateways have that do not say
	GatewayLinger time.Duration // of files without names, for gateways that were ended
	OwnLease      time.Duration // of what this gateway has, 0: it does not say
	ControlListen string
	BlockListen   string
	Disks         []string
	Segment       int64
	MapEvery      time.Duration
	RetryAfter    time.Duration
	CollectEvery  time.Duration
	Budget        int64 // bytes per second of each disk
	NFSListen     string
	NFS3Listen    string // of the read-only NFSv3, "": none
	Allow         []netip.Prefix
	RootSquash    bool
	NoAtime       bool
	Several       bool                // there may be other gateways of the same file systems
	PeersListen   string              // where they carry requests to that came to them
	Addresses     []netip.Prefix      // that move between them
	Delegations   nfsstate.Delegating // of files to NFS clients
	ReplyCache    int64               // bytes of the slots of all NFS sessions
	Lease         time.Duration
	LocalDir      string
	LocalListen   string
	LocalClients  []netip.Prefix
	LocalLazy     bool // changes of names may be durable after they are answered
	HTTPListen    string
	APIListen     string
	APICert       string
	APIKey        string
	Import        cloudimport.Options // Reach, Parallel and BytesPerSecond of it
	GossipListen  string
	GossipEvery   time.Duration
	GossipRejoin  time.Duration
	Timing        nodegroup.Timing
	ProbeEvery    time.Duration
	LogLevel      slog.Level
}

// Has reports whether the node has a role.
func (c *Config) Has(role string) bool { return slices.Contains(c.Roles, role) }

// LoadConfig reads a configuration file.
func LoadConfig(path string) (*Config, error) {
	raw, err := vfile.ReadFile(vfile.OS{}, path, maxConfigBytes)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, "config", "%w; `rackfs node --print-config` prints one to begin with", err)
	}
	c, err := ParseConfig(raw)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), "config "+path, "%w", err)
	}
	return c, nil
}

// ParseConfig reads YAML.
func ParseConfig(raw []byte) (*Config, error) {
	k := koanf.New(".")
	if err := k.Load(rawbytes.Provider(raw), yaml.Parser()); err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, "", "not valid YAML: %w", err)
	}
	var unknown []string
	for _, path := range k.Keys() {
		if !slices.ContainsFunc(keys, func(x key) bool { return x.path == path }) && !emptySection(k, path) {
			unknown = append(unknown, path)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return nil, vfs.Errorf(vfs.KindInvalid, "", "unknown key %s: `rackfs node --print-config` lists all keys", strings.Join(unknown, ", "))
	}
	r := &reading{k: k}
	c := &Config{
		Name: r.text("name", ""), Data: r.text("data", ""), Roles: r.list("roles"), Advertise: r.text("advertise", ""),
		Zone: r.text("zone", ""), Rack: r.text("rack", ""), Group: r.text("group", ""),
		MetaListen: r.text("meta.listen", ":7071"), RaftLog: r.text("meta.raft_log", string(raftmeta.WAL)), GCGrace: r.duration("meta.gc_grace", raftmeta.DefaultGrace, time.Second, 30*24*time.Hour),
		GatewayLease:  r.duration("meta.gateway_lease", raftmeta.DefaultOriginLease, minGatewayLease, maxGatewayLease),
		GatewayLinger: r.duration("meta.gateway_linger", 2*minCourtesy, minGatewayLease, time.Hour),
		ControlListen: r.text("control.listen", ":7072"), BlockListen: r.text("block.listen", ":7073"),
		Disks: r.list("block.disks"), Segment: r.size("block.segment", store.DefaultSegmentSize, store.MinSegmentSize, maxSegment),
		MapEvery: r.duration("block.map_every", upkeep.DefaultMapInterval, minProbeEvery, time.Hour), RetryAfter: r.duration("block.retry_after", upkeep.DefaultRetry, minProbeEvery, time.Hour),
		CollectEvery: r.duration("block.collect_every", upkeep.DefaultCollectInterval, minProbeEvery, 24*time.Hour),
		Budget:       r.size("block.budget", budget.Default, minBudget, maxBudget),
		NFSListen:    r.text("nfs.listen", ":2049"), NFS3Listen: r.text("nfs.v3_listen", ""), RootSquash: r.flag("nfs.root_squash"), NoAtime: r.flag("nfs.noatime"), Several: r.flag("nfs.several"), PeersListen: r.text("nfs.peers_listen", ":7075"),
		ReplyCache: r.size("nfs.reply_cache", nfsstate.DefaultReplyCache, nfsstate.MinReplyCache, nfsstate.MaxReplyCache),
		Lease:      r.duration("nfs.lease", 30*time.Second, time.Second, time.Hour), HTTPListen: r.text("http.listen", "127.0.0.1:7070"),
		LocalDir: r.text("local.dir", ""), LocalListen: r.text("local.listen", ":2050"), LocalLazy: r.flag("local.lazy_names"),
		APIListen: r.text("api.listen", ":7443"), APICert: r.text("api.cert", ""), APIKey: r.text("api.key", ""),
		GossipListen: r.text("gossip.listen", ":7074"), GossipEvery: r.duration("gossip.probe_every", gossip.DefaultProbeEvery, minProbeEvery, time.Minute),
		GossipRejoin: r.duration("gossip.rejoin_every", gossip.DefaultRejoinEvery, minProbeEvery, time.Hour),
		ProbeEvery:   r.duration("health.probe_every", nodegroup.DefaultProbeEvery, minProbeEvery, time.Minute),
	}
	def := nodegroup.DefaultTiming
	c.Timing = nodegroup.Timing{
		FailAfter:    r.duration("health.fail_after", def.FailAfter, minProbeEvery, maxTiming),
		SuspectAfter: r.duration("health.suspect_after", def.SuspectAfter, minProbeEvery, maxTiming),
		OutAfter:     r.duration("health.out_after", def.OutAfter, minProbeEvery, maxTiming),
		UpAfter:      r.duration("health.up_after", def.UpAfter, minProbeEvery, maxTiming),
	}
	c.Import = r.imports()
	own := time.Duration(0)
	if c.Several {
		own = severalLease
	}
	c.OwnLease = r.duration("nfs.gateway_lease", own, minGatewayLease, maxGatewayLease)
	c.Addresses = r.addresses("nfs.addresses", c)
	c.Allow, c.LocalClients = r.networks("nfs.allow"), r.networks("local.clients")
	var err error
	if c.Delegations, err = nfsstate.ParseDelegating(r.text("nfs.delegations", "")); err != nil {
		r.bad("nfs.delegations", "%q: use read, write or none", k.Get("nfs.delegations"))
	}
	if err := c.LogLevel.UnmarshalText([]byte(r.text("log.level", "info"))); err != nil {
		r.bad("log.level", "%q: use debug, info, warn or error", k.Get("log.level"))
	}
	r.check(c)
	if r.err != nil {
		return nil, r.err
	}
	return c, nil
}

// emptySection allows a section of which every key is a comment.
func emptySection(k *koanf.Koanf, path string) bool {
	if m, ok := k.Get(path).(map[string]any); k.Get(path) != nil && (!ok || len(m) > 0) {
		return false
	}
	return slices.ContainsFunc(keys, func(x key) bool { return strings.HasPrefix(x.path, path+".") })
}

// reading turns values into what they have to be and keeps the first complaint.
type reading struct {
	k   *koanf.Koanf
	err error
}

func (r *reading) bad(path, format string, args ...any) {
	if r.err == nil {
		r.err = vfs.Errorf(vfs.KindInvalid, "", "%s: %s", path, fmt.Sprintf(format, args...))
	}
}

// text is a scalar. Numbers and the like are text here, for YAML guesses what was meant.
func (r *reading) text(path, def string) string {
	switch v := r.k.Get(path).(type) {
	case nil:
		return def
	case string:
		return v
	case int, int64, uint64, float64, bool:
		return fmt.Sprint(v)
	default:
		r.bad(path, "one value is expected, not a list or a section")
		return def
	}
}

func (r *reading) list(path string) []string {
	switch v := r.k.Get(path).(type) {
	case nil:
		return nil
	case []any:
		var out []string
		for i, x := range v {
			s, ok := x.(string)
			if !ok {
				r.bad(fmt.Sprintf("%s[%d]", path, i), "%v is not text: put it in quotes", x)
			}
			out = append(out, s)
		}
		return out
	default:
		r.bad(path, "a list is expected, such as [%v]", v)
		return nil
	}
}

func (r *reading) networks(path string) (out []netip.Prefix) {
	for i, s := range r.list(path) {
		p, err := parsePrefix(s)
		if err != nil {
			r.bad(fmt.Sprintf("%s[%d]", path, i), "%q is neither a network such as 10.1.0.0/16 nor an address", s)
		}
		out = append(out, p)
	}
	return out
}

// addresses are floating ones.
func (r *reading) addresses(path string, c *Config) (out []netip.Prefix) {
	for i, s := range r.list(path) {
		p, err := netip.ParsePrefix(s)
		switch a := p.Addr(); {
		case err != nil:
			r.bad(fmt.Sprintf("%s[%d]", path, i), "%q is no address with the length of its network, such as 10.0.0.50/24 or fd00:10::50/64", s)
		case a.Is4In6():
			r.bad(fmt.Sprintf("%s[%d]", path, i), "%q is an IPv4 address in IPv6: write %v, and the length of its network", s, a.Unmap())
		case a.IsUnspecified(), a.IsMulticast(), a.Is6() && a.IsLinkLocalUnicast():
			r.bad(fmt.Sprintf("%s[%d]", path, i), "%q cannot move: use an address that one machine has, and that is not of its link only, such as 10.0.0.50/24 or fd00:10::50/64", s)
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil
	}
	if host, _, err := net.SplitHostPort(c.NFSListen); !c.Several || err == nil && host != "" {
		r.bad(path, "set nfs.several, and nfs.listen without an address, such as \":2049\": what moves is served where it is")
	}
	if c.OwnLease < minFloatingLease {
		r.bad("nfs.gateway_lease", "addresses that move need %v or more", minFloatingLease)
	}
	return out
}

func (r *reading) imports() (o cloudimport.Options) {
	var err error
	if o.Reach, err = cloudimport.ParseReach(r.list("import.allow")); err != nil {
		var e *vfs.Error
		errors.As(err, &e)
		r.bad("import.allow", "%s", e.Text)
	}
	o.BytesPerSecond = r.size("import.rate", 0, minBudget, maxBudget)
	if s := r.text("import.parallel", ""); s != "" {
		if o.Parallel, err = strconv.Atoi(s); err != nil || o.Parallel < 1 || o.Parallel > cloudimport.MaxParallel {
			r.bad("import.parallel", "%q: use 1 to %d", s, cloudimport.MaxParallel)
		}
	}
	return o
}

func (r *reading) flag(path string) bool {
	switch v := r.k.Get(path).(type) {
	case nil:
		return false
	case bool:
		return v
	default:
		r.bad(path, "%v: use true or false", v)
		return false
	}
}

func (r *reading) duration(path string, def, lo, hi time.Duration) time.Duration {
	s := r.text(path, "")
	if s == "" {
		return def
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < lo || d > hi {
		r.bad(path, "%q: use %v to %v, such as 90s or 10m", s, lo, hi)
	}
	return d
}

func (r *reading) size(path string, def, lo, hi int64) int64 {
	s := r.text(path, "")
	if s == "" {
		return def
	}
	unit := int64(1)
	num := s
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			num, unit = strings.TrimSpace(n), u
		}
	}
	n, err := strconv.ParseInt(num, 10, 32)
	if err != nil || n*unit < lo || n*unit > hi || bits.OnesCount64(uint64(n*unit)) != 1 {
		r.bad(path, "%q: use a power of two from %dMiB to %dMiB, such as 256MiB", s, lo>>20, hi>>20)
	}
	return n * unit
}

func (r *reading) check(c *Config) {
	need := func(path, v string) {
		if v == "" {
			r.bad(path, "is required")
		}
	}
	need("name", c.Name)
	need("data", c.Data)
	need("advertise", c.Advertise)
	for i, c := range c.Name {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0) || i >= 63 {
			r.bad("name", "use up to 63 of a-z, 0-9 and '-', beginning with a letter or digit")
		}
	}
	if strings.HasSuffix(c.Name, "-") || strings.Trim(c.Name, "0123456789") == "" && c.Name != "" {
		r.bad("name", "%q: end with a letter or digit, and have a letter", c.Name)
	}
	if c.Data != "" && !filepath.IsAbs(c.Data) {
		r.bad("data", "%q: write an absolute path", c.Data)
	}
	if len(c.Roles) == 0 {
		r.bad("roles", "is required: a list of %s", strings.Join(allRoles, ", "))
	}
	for i, role := range c.Roles {
		if !slices.Contains(allRoles, role) {
			r.bad(fmt.Sprintf("roles[%d]", i), "%q: use %s", role, strings.Join(allRoles, ", "))
		}
		if slices.Contains(c.Roles[:i], role) {
			r.bad(fmt.Sprintf("roles[%d]", i), "%s is listed twice", role)
		}
	}
	if strings.ContainsAny(c.Advertise, "/ []") || strings.Contains(c.Advertise, ":") && net.ParseIP(c.Advertise) == nil {
		r.bad("advertise", "%q: write an address or a host name, without a port", c.Advertise)
	}
	if ip := net.ParseIP(c.Advertise); ip != nil && ip.IsUnspecified() {
		r.bad("advertise", "%s is no address that others can reach", ip)
	}
	switch raftmeta.Backend(c.RaftLog) {
	case raftmeta.WAL, raftmeta.Bolt:
	default:
		r.bad("meta.raft_log", "%q: use %s or %s", c.RaftLog, raftmeta.WAL, raftmeta.Bolt)
	}
	if (c.APICert == "") != (c.APIKey == "") {
		r.bad("api", "cert and key belong together: give both files, or none")
	}
	for path, v := range map[string]string{"api.cert": c.APICert, "api.key": c.APIKey} {
		if v != "" && !filepath.IsAbs(v) {
			r.bad(path, "%q: write an absolute path", v)
		}
	}
	taken := map[string]string{}
	for _, l := range c.listens() {
		_, port, err := net.SplitHostPort(l.addr)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || n == 0 {
			r.bad(l.path, "%q: write host:port or :port, with a port from 1 to 65535", l.addr)
		}
		if other := taken[port]; other != "" && l.advertised {
			r.bad(l.path, "port %s is that of %s already", port, other)
		}
		if l.advertised {
			taken[port] = l.path
		}
	}
	if c.Has(RoleBlock) && len(c.Disks) == 0 {
		r.bad("block.disks", "is required with role block: a directory for each disk")
	}
	if !c.Has(RoleBlock) && len(c.Disks) > 0 {
		r.bad("block.disks", "this node does not have the role block: add it to roles, or leave the disks out")
	}
	if len(c.Disks) > maxDisks {
		r.bad("block.disks", "%d disks, at most %d", len(c.Disks), maxDisks)
	}
	for i, d := range c.Disks {
		path := fmt.Sprintf("block.disks[%d]", i)
		if !filepath.IsAbs(d) {
			r.bad(path, "%q: write an absolute path", d)
		}
		c.Disks[i] = filepath.Clean(d)
		for j, o := range c.Disks[:i] {
			if within(c.Disks[i], o) || within(o, c.Disks[i]) {
				r.bad(path, "%s and block.disks[%d] are not apart", d, j)
			}
		}
		if within(c.Data, c.Disks[i]) {
			r.bad(path, "the data directory is in it")
		}
	}
	r.checkLocal(c)
	if t := c.Timing; t.FailAfter > t.SuspectAfter || t.SuspectAfter > t.OutAfter {
		r.bad("health", "fail_after %v, suspect_after %v, out_after %v: none may be longer than the next", t.FailAfter, t.SuspectAfter, t.OutAfter)
	}
	for _, s := range []struct{ path, v string }{{"zone", c.Zone}, {"rack", c.Rack}, {"group", c.Group}} {
		if len(s.v) > 63 || strings.ContainsAny(s.v, "/ \t\n") {
			r.bad(s.path, "%q: use up to 63 characters without spaces and '/'", s.v)
		}
	}
}

func (r *reading) checkLocal(c *Config) {
	if !c.Has(RoleLocal) {
		return
	}
	switch {
	case c.LocalDir == "":
		r.bad("local.dir", "is required with role local: a directory on the disk that workloads of this node use")
		return
	case !filepath.IsAbs(c.LocalDir):
		r.bad("local.dir", "%q: write an absolute path", c.LocalDir)
	}
	c.LocalDir = filepath.Clean(c.LocalDir)
	for i, d := range append([]string{c.Data}, c.Disks...) {
		if within(c.LocalDir, d) || within(d, c.LocalDir) {
			what := "the data directory"
			if i > 0 {
				what = fmt.Sprintf("block.disks[%d]", i-1)
			}
			r.bad("local.dir", "%s and %s are not apart", c.LocalDir, what)
		}
	}
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, filepath.Clean(path))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

type listen struct {
	path, addr string
	advertised bool
}

// listens are the addresses that the node's roles need.
func (c *Config) listens() []listen {
	var out []listen
	if c.Has(RoleMeta) {
		out = append(out, listen{"meta.listen", c.MetaListen, true}, listen{"control.listen", c.ControlListen, true})
	}
	if c.Has(RoleBlock) {
		out = append(out, listen{"block.listen", c.BlockListen, true})
	}
	if c.Has(RoleGateway) {
		out = append(out, listen{"nfs.listen", c.NFSListen, true})
		if c.Several {
			out = append(out, listen{listenPeers, c.PeersListen, true})
		}
		if c.NFS3Listen != "" {
			out = append(out, listen{"nfs.v3_listen", c.NFS3Listen, false})
		}
		if c.APIListen != "" {
			out = append(out, listen{listenAPI, c.APIListen, true})
		}
	}
	if c.Has(RoleLocal) {
		out = append(out, listen{"local.listen", c.LocalListen, true})
	}
	if c.GossipListen != "" {
		out = append(out, listen{"gossip.listen", c.GossipListen, true})
	}
	if c.HTTPListen != "" {
		out = append(out, listen{"http.listen", c.HTTPListen, false})
	}
	return out
}

// advertised is where others reach what listens on addr, "" without the role.
func (c *Config) advertised(role, addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil || !c.Has(role) {
		return ""
	}
	return net.JoinHostPort(c.Advertise, port)
}

// rules are who may use the exports: this machine, by loopback and by the address that others use, and what was asked for.
func (c *Config) rules() []export.Rule {
	allowed := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	if ip, err := netip.ParseAddr(c.Advertise); err == nil && !ip.IsLoopback() {
		allowed = append(allowed, netip.PrefixFrom(ip.WithZone(""), ip.BitLen()))
	}
	squash := export.SquashNone
	if c.RootSquash {
		squash = export.SquashRoot
	}
	var out []export.Rule
	for _, p := range append(allowed, c.Allow...) {
		out = append(out, export.Rule{Clients: p, Access: export.ReadWrite, Squash: squash, AnonUID: export.AnonID, AnonGID: export.AnonID})
	}
	return out
}

func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// Example is a configuration file that documents every key.
func Example() string {
	var b strings.Builder
	b.WriteString("# Configuration of a rackfs node. Lines that begin with '#' show the default, or an example where there is none.\n")
	section := ""
	for _, k := range keys {
		name, indent := k.path, ""
		if s, n, ok := strings.Cut(k.path, "."); ok {
			if name, indent = n, "  "; s != section {
				section = s
				fmt.Fprintf(&b, "\n%s:\n", s)
			}
		}
		for line := range strings.Lines(k.doc) {
			fmt.Fprintf(&b, "%s# %s\n", indent, strings.TrimSuffix(line, "\n"))
		}
		sign := "#"
		if k.set {
			sign = ""
		}
		fmt.Fprintf(&b, "%s%s%s: %s\n", indent, sign, name, cmp.Or(k.example, `""`))
	}
	return b.String()
}
